"""What a token is worth after sign-out, ban, deletion, a lost role or a lost factor: nothing."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from sandbox.supabase.auth.factors import totp
from tests.harness.database import TestDatabase
from tests.integration.api_frame.conftest import AuthHarness, bearer

ADA = "ada@example.com"
BOSS = "boss@example.com"


class Desk(msgspec.Struct):
    """An admin with a second factor, a person, and Auth's own admin interface."""

    auth: AuthHarness
    admin: dict[str, Any]
    admin_factor: str
    person: dict[str, Any]

    async def as_admin(self, method: str, path: str, **how: Any) -> httpx.Response:
        headers = bearer(self.admin) | how.pop("headers", {})
        return await self.auth.client.request(method, path, headers=headers, **how)


async def _lift(auth: AuthHarness, session: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Enrol an authenticator; the session at aal2 and the factor's id."""
    factor = (
        await auth.client.post("/v1/auth/mfa/factors", headers=bearer(session), json={})
    ).json()
    return await answer_challenge(auth, session, factor["id"], factor["secret"]), factor["id"]


async def answer_challenge(
    auth: AuthHarness, session: dict[str, Any], factor_id: str, secret: str
) -> dict[str, Any]:
    headers = bearer(session)
    challenge = await auth.client.post(
        "/v1/auth/mfa/challenge", headers=headers, json={"factor_id": factor_id}
    )
    answer = await auth.client.post(
        "/v1/auth/mfa/verify",
        headers=headers,
        json={
            "factor_id": factor_id,
            "challenge_id": challenge.json()["id"],
            "code": totp(secret, at=time.time()),
        },
    )
    assert answer.status_code == 200, answer.text
    lifted: dict[str, Any] = answer.json()
    return lifted


@pytest.fixture
async def desk(auth: AuthHarness) -> Desk:
    boss = await auth.join(BOSS)
    lifted, factor_id = await _lift(auth, boss)
    promoted = await auth.owner.put(
        f"/admin/users/{boss['user']['id']}", json={"app_metadata": {"role": "admin"}}
    )
    assert promoted.status_code == 200, promoted.text
    answer = await auth.client.post(
        "/v1/auth/refresh", json={"refresh_token": lifted["refresh_token"]}
    )
    return Desk(auth, answer.json(), factor_id, await auth.join(ADA))


Act = Callable[[Desk, dict[str, Any]], Awaitable[httpx.Response]]


async def _ban(desk: Desk, session: dict[str, Any]) -> httpx.Response:
    return await desk.auth.owner.put(_user(session), json={"ban_duration": "24h"})


async def _sign_out(desk: Desk, session: dict[str, Any]) -> httpx.Response:
    return await desk.auth.owner.post("/logout?scope=global", headers=bearer(session))


async def _delete(desk: Desk, session: dict[str, Any]) -> httpx.Response:
    return await desk.auth.owner.delete(_user(session))


async def _delete_softly(desk: Desk, session: dict[str, Any]) -> httpx.Response:
    body = {"should_soft_delete": True}
    return await desk.auth.owner.request("DELETE", _user(session), json=body)


async def _demote(desk: Desk, session: dict[str, Any]) -> httpx.Response:
    return await desk.auth.owner.put(_user(session), json={"app_metadata": {"role": None}})


async def _remove_factor(desk: Desk, session: dict[str, Any]) -> httpx.Response:
    return await desk.auth.owner.delete(f"{_user(session)}/factors/{desk.admin_factor}")


def _user(session: dict[str, Any]) -> str:
    return f"/admin/users/{session['user']['id']}"


LEFT: dict[str, tuple[Act, int, str]] = {
    "signed out": (_sign_out, 401, "session_not_found"),
    "banned": (_ban, 403, "user_banned"),
    "deleted": (_delete, 401, "session_not_found"),
    "deleted softly": (_delete_softly, 401, "session_not_found"),
}
LOST: dict[str, tuple[Act, int, str]] = LEFT | {
    "demoted": (_demote, 403, "not_an_admin"),
    "factor removed": (_remove_factor, 403, "mfa_required"),
}


@pytest.mark.parametrize("how", LOST)
async def test_an_admin_who_left_acts_no_more(desk: Desk, database: TestDatabase, how: str) -> None:
    act, status, reason = LOST[how]
    person = desk.person["user"]["id"]
    adjust = {"amount": 5, "reason": "goodwill for a late image"}
    path = f"/v1/admin/users/{person}/credits/adjustments"
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/admin/users", {}),
        ("GET", "/v1/admin/audit", {}),
        ("POST", path, {"json": adjust, "headers": {"Idempotency-Key": "one"}}),
    ]
    for method, where, more in calls:
        assert (await desk.as_admin(method, where, **more)).is_success, where
    assert (await act(desk, desk.admin)).is_success
    calls[2][2]["headers"] = {"Idempotency-Key": "two"}
    for method, where, more in calls:
        answer = await desk.as_admin(method, where, **more)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason), where
        assert len(answer.json()["detail"]) > 15
    assert len(database.rows("select from app.audit_log where action = 'credits.adjust'")) == 1


@pytest.mark.parametrize("how", LEFT)
async def test_a_person_who_left_moves_no_money(
    desk: Desk, database: TestDatabase, how: str
) -> None:
    act, status, reason = LEFT[how]
    nothing = "00000000-0000-7000-8000-000000000000"
    order = {"operation": "cutout", "upload_id": nothing, "params": {}}
    posts: list[tuple[str, dict[str, Any] | None]] = [
        ("/v1/generations", order),
        ("/v1/codes/redeem", {"code": "JSG-0000-0000-0000-0000"}),
        (f"/v1/generations/{nothing}/cancel", None),
    ]
    headers = bearer(desk.person)
    assert (await desk.auth.client.get("/v1/me", headers=headers)).status_code == 200
    assert (await act(desk, desk.person)).is_success
    for path, body in posts:
        answer = await desk.auth.client.post(path, headers=headers, json=body)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason), path
    assert database.row("select sum(available) as sum from app.credit_accounts")["sum"] == 20
