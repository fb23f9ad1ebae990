"""The first to enrol is not the second factor: who answers for an admin's authenticator app."""

import time
from typing import Any

import httpx
import msgspec
import pytest

from sandbox.supabase.auth.factors import totp
from tests.harness.database import TestDatabase
from tests.integration.api_frame.conftest import PASSWORD, AuthHarness, OpenAuth, bearer

ADMIN_KEY = "kV3q9Zt1Yw7rLm2XhB6cDf8sPa4gJe0u"
BREAK_GLASS = {"X-Admin-Key": ADMIN_KEY}


class App(msgspec.Struct):
    """Somebody's authenticator app."""

    id: str
    secret: str


async def enrol(auth: AuthHarness, session: dict[str, Any], name: str = "phone") -> App:
    answer = await auth.client.post(
        "/v1/auth/mfa/factors", headers=bearer(session), json={"friendly_name": name}
    )
    assert answer.status_code == 201, answer.text
    return App(answer.json()["id"], answer.json()["secret"])


async def lift(auth: AuthHarness, session: dict[str, Any], app: App) -> dict[str, Any]:
    headers = bearer(session)
    challenge = await auth.client.post(
        "/v1/auth/mfa/challenge", headers=headers, json={"factor_id": app.id}
    )
    body = {
        "factor_id": app.id,
        "challenge_id": challenge.json()["id"],
        "code": totp(app.secret, at=time.time()),
    }
    answer = await auth.client.post("/v1/auth/mfa/verify", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    lifted: dict[str, Any] = answer.json()
    return lifted


async def sign_in(auth: AuthHarness, email: str) -> dict[str, Any]:
    answer = await auth.client.post("/v1/auth/sign-in", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    return session


async def promote(auth: AuthHarness, session: dict[str, Any], role: str | None = "admin") -> None:
    path = f"/admin/users/{session['user']['id']}"
    assert (await auth.owner.put(path, json={"app_metadata": {"role": role}})).is_success


async def admin(auth: AuthHarness, email: str) -> tuple[dict[str, Any], App]:
    """Made as the guide says: the app first, the role then."""
    session = await auth.join(email)
    app = await enrol(auth, session)
    await lift(auth, session, app)
    await promote(auth, session)
    return await lift(auth, await sign_in(auth, email), app), app


async def reason_of(auth: AuthHarness, session: dict[str, Any], path: str = "users") -> str | None:
    answer = await auth.client.get(f"/v1/admin/{path}", headers=bearer(session))
    return None if answer.is_success else str(answer.json()["reason"])


def audited(database: TestDatabase) -> list[str]:
    return [row["action"] for row in database.rows("select action from app.audit_log order by id")]


async def test_the_password_alone_makes_no_admin(auth: AuthHarness, database: TestDatabase) -> None:
    """An admin's account without a factor, and a stranger who knows the password."""
    await promote(auth, await auth.join("boss@example.com"))
    stolen = await sign_in(auth, "boss@example.com")
    lifted = await lift(auth, stolen, await enrol(auth, stolen))
    for path in ("users", "audit", "codes", "factors"):
        assert await reason_of(auth, lifted, path) == "factor_not_confirmed"
    assert audited(database) == ["admin_role.give", "admin_factor.enrol"]


async def test_the_app_first_and_the_role_then(auth: AuthHarness) -> None:
    session, _ = await admin(auth, "boss@example.com")
    assert await reason_of(auth, session) is None


async def test_another_admin_answers_for_a_factor(
    auth: AuthHarness, database: TestDatabase
) -> None:
    boss, _ = await admin(auth, "boss@example.com")
    await promote(auth, await auth.join("new@example.com"))
    session = await sign_in(auth, "new@example.com")
    app = await enrol(auth, session)
    lifted = await lift(auth, session, app)
    path, body = f"/v1/admin/factors/{app.id}/confirm", {"reason": "saw it on their phone"}
    own = await auth.client.post(path, headers=bearer(lifted), json=body)
    assert (own.status_code, own.json()["reason"]) == (403, "factor_not_confirmed")
    listed = (await auth.client.get("/v1/admin/factors", headers=bearer(boss))).json()["items"]
    assert [(row["email"], row["confirmed_at"] is None) for row in listed] == [
        ("new@example.com", True),
        ("boss@example.com", False),
    ]
    answer = await auth.client.post(path, headers=bearer(boss), json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["confirmed_by"] == boss["user"]["id"]
    assert await reason_of(auth, lifted) is None
    assert audited(database)[-1] == "admin_factor.confirm"
    missing = await auth.client.post(
        path.replace(app.id, boss["user"]["id"]), headers=bearer(boss), json=body
    )
    assert (missing.status_code, missing.json()["kind"]) == (404, "admin_factor")


async def test_the_first_admin_by_the_break_glass_key(open_auth: OpenAuth) -> None:
    async with open_auth({"admin_dashboard_key": ADMIN_KEY}) as auth:
        await promote(auth, await auth.join("boss@example.com"))
        session = await sign_in(auth, "boss@example.com")
        app = await enrol(auth, session)
        lifted = await lift(auth, session, app)
        assert await reason_of(auth, lifted) == "factor_not_confirmed"
        answer = await auth.client.post(
            f"/v1/admin/factors/{app.id}/confirm",
            headers=BREAK_GLASS,
            json={"reason": "the first admin of the shop"},
        )
        assert (answer.status_code, answer.json()["confirmed_by"]) == (200, "break-glass")
        assert await reason_of(auth, lifted) is None


async def test_a_spare_app_is_confirmed_with_the_first(auth: AuthHarness) -> None:
    session, app = await admin(auth, "boss@example.com")
    spare = await enrol(auth, session, "spare")
    lifted = await lift(auth, session, spare)
    assert await reason_of(auth, lifted) == "factor_not_confirmed"
    again = await lift(auth, await sign_in(auth, "boss@example.com"), app)
    answer = await auth.client.post(
        f"/v1/admin/factors/{spare.id}/confirm",
        headers=bearer(again),
        json={"reason": "my tablet"},
    )
    assert answer.status_code == 200, answer.text
    assert (
        await reason_of(auth, await lift(auth, await sign_in(auth, "boss@example.com"), spare))
        is None
    )


async def test_a_factor_in_place_of_a_lost_one_is_new(auth: AuthHarness) -> None:
    session, app = await admin(auth, "boss@example.com")
    path = f"/admin/users/{session['user']['id']}/factors/{app.id}"
    assert (await auth.owner.delete(path)).is_success
    assert await reason_of(auth, session) == "mfa_required"
    stolen = await sign_in(auth, "boss@example.com")
    assert await reason_of(auth, await lift(auth, stolen, await enrol(auth, stolen, "x"))) == (
        "factor_not_confirmed"
    )


async def test_the_role_given_again_answers_again(
    auth: AuthHarness, database: TestDatabase
) -> None:
    session, app = await admin(auth, "boss@example.com")
    await promote(auth, session, None)
    assert await reason_of(auth, session) == "not_an_admin"
    await promote(auth, session)
    assert (
        await reason_of(auth, await lift(auth, await sign_in(auth, "boss@example.com"), app))
        is None
    )
    assert audited(database) == ["admin_role.give", "admin_role.take", "admin_role.give"]


async def test_auth_does_not_fail_for_what_we_note(
    auth: AuthHarness, database: TestDatabase
) -> None:
    session = await auth.join("boss@example.com")
    database.rows("alter table app.admin_factors rename to elsewhere")
    await promote(auth, session)
    await promote(auth, session, None)
    assert audited(database) == []


async def test_who_signs_in_again_finds_the_app(auth: AuthHarness) -> None:
    session = await auth.join("ada@example.com")
    assert await own_apps(auth, session) == []
    app = await enrol(auth, session)
    (found,) = await own_apps(auth, session)
    assert (found["id"], found["friendly_name"], found["status"]) == (app.id, "phone", "unverified")
    assert "secret" not in str(found)
    await lift(auth, session, app)
    again = await sign_in(auth, "ada@example.com")
    (found,) = await own_apps(auth, again)
    lifted = await lift(auth, again, App(found["id"], app.secret))
    assert lifted["user"]["aal"] == "aal2"
    assert (await auth.client.get("/v1/auth/mfa/factors")).status_code == 401


async def own_apps(auth: AuthHarness, session: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await auth.client.get("/v1/auth/mfa/factors", headers=bearer(session))
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


NEW = "another horse battery"


async def set_password(auth: AuthHarness, session: dict[str, Any], **body: str) -> httpx.Response:
    return await auth.client.put("/v1/auth/password", headers=bearer(session), json=body)


async def test_a_stolen_token_sets_no_password(auth: AuthHarness) -> None:
    await auth.join("ada@example.com")
    session = await sign_in(auth, "ada@example.com")
    bare = await set_password(auth, session, password=NEW)
    assert (bare.status_code, bare.json()["reason"]) == (403, "current_password_required")
    guess = await set_password(auth, session, password=NEW, current_password="wrong")
    assert (guess.status_code, guess.json()["reason"]) == (401, "current_password_invalid")
    right = await set_password(auth, session, password=NEW, current_password=PASSWORD)
    assert right.status_code == 204, right.text
    answer = await auth.client.post(
        "/v1/auth/sign-in", json={"email": "ada@example.com", "password": NEW}
    )
    assert answer.status_code == 200


async def test_checking_the_password_leaves_no_session(
    auth: AuthHarness, database: TestDatabase
) -> None:
    await auth.join("ada@example.com")
    session = await sign_in(auth, "ada@example.com")
    before = len(database.rows("select from auth.sessions"))
    weak = await set_password(auth, session, password="x", current_password=PASSWORD)
    assert weak.status_code == 422
    assert len(database.rows("select from auth.sessions")) == before


@pytest.mark.parametrize("minutes", [30, 61])
async def test_a_mailed_link_proves_the_mailbox_for_an_hour(
    auth: AuthHarness, database: TestDatabase, minutes: int
) -> None:
    await auth.join("ada@example.com")
    await auth.client.post("/v1/auth/recover", json={"email": "ada@example.com"})
    body = {"token_hash": auth.token_hash("ada@example.com"), "type": "recovery"}
    session = (await auth.client.post("/v1/auth/confirm", json=body)).json()["session"]
    database.rows(
        "update auth.mfa_amr_claims set updated_at = updated_at - make_interval(mins => %s)",
        (minutes,),
    )
    refreshed = await auth.client.post(
        "/v1/auth/refresh", json={"refresh_token": session["refresh_token"]}
    )
    answer = await set_password(auth, refreshed.json(), password=NEW)
    assert answer.status_code == (204 if minutes < 60 else 403), answer.text
