"""Links in mails: opening them changes nothing, the button does, and once."""

import re

import httpx

from tests.harness.database import TestDatabase
from tests.integration.api_frame.conftest import PASSWORD, AuthHarness, bearer

ADA = "ada@example.com"
NEW_PASSWORD = "another horse battery"


def _fields(page: httpx.Response) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))


async def test_opening_does_not_use_up_and_the_button_does(
    auth: AuthHarness, database: TestDatabase
) -> None:
    await auth.sign_up(ADA)
    link = f"/auth/confirm?token_hash={auth.token_hash(ADA)}&type=email"
    for _ in range(3):
        page = await auth.client.get(link)
        assert page.status_code == 200
        assert (await auth.client.head(link)).status_code in {200, 405}
    assert database.rows("select from app.credit_accounts") == []
    done = await auth.client.post("/auth/confirm", data=_fields(page))
    assert done.status_code == 200
    assert "10 free credits" in done.text
    assert database.row("select available from app.credit_accounts")["available"] == 10
    again = await auth.client.post("/auth/confirm", data=_fields(page))
    assert again.status_code == 401
    assert "used already" in again.text


async def test_recovery_asks_for_the_password_first(auth: AuthHarness) -> None:
    await auth.join(ADA)
    await auth.client.post("/v1/auth/recover", json={"email": ADA})
    link = f"/auth/confirm?token_hash={auth.token_hash(ADA)}&type=recovery"
    page = await auth.client.get(link)
    assert 'type="password"' in page.text
    weak = await auth.client.post("/auth/confirm", data=_fields(page) | {"password": "abc"})
    assert weak.status_code == 422
    assert "easy to guess" in weak.text
    assert _fields(weak)["session"]  # the link is used up; the form goes on with its session
    done = await auth.client.post("/auth/confirm", data=_fields(weak) | {"password": NEW_PASSWORD})
    assert (done.status_code, "Password saved" in done.text) == (200, True)
    for password, status in ((PASSWORD, 401), (NEW_PASSWORD, 200)):
        answer = await auth.client.post(
            "/v1/auth/sign-in", json={"email": ADA, "password": password}
        )
        assert answer.status_code == status


async def test_odd_links_get_a_page_and_no_markup_through(auth: AuthHarness) -> None:
    for query in (
        "",
        "?token_hash=<script>alert(1)</script>&type=email",
        "?token_hash=abcdefgh&type=%22%3E%3Cscript%3E",
        "?token_hash=abcdefgh&type=unknown",
    ):
        page = await auth.client.get(f"/auth/confirm{query}")
        assert page.status_code == 400
        assert page.headers["content-type"].startswith("text/html")
        assert "<script" not in page.text
    made_up = await auth.client.post(
        "/auth/confirm", data={"token_hash": "abcdefgh", "type": "email"}
    )
    assert made_up.status_code == 401
    fake = await auth.client.post(
        "/auth/confirm",
        data={
            "token_hash": "abcdefgh",
            "type": "recovery",
            "password": NEW_PASSWORD,
            "session": "not.a.token",
        },
    )
    assert fake.status_code == 401


async def test_a_session_of_the_page_is_a_session(auth: AuthHarness) -> None:
    session = await auth.join(ADA)
    assert (await auth.client.get("/v1/me", headers=bearer(session))).status_code == 200
