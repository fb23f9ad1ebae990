"""A person solved a challenge on a page of ours, before a mail is sent."""

from typing import Any

import pytest

from core.settings import SettingsError, load_settings
from sandbox.turnstile.app import (
    ALWAYS_FAILS,
    ALWAYS_PASSES,
    ALWAYS_SPENT,
    Solved,
    Turnstile,
    create_app,
)
from tests.integration.api_frame.conftest import PASSWORD, AuthHarness, OpenAuth
from tests.unit.test_settings import PRODUCTION

ADA = "ada@example.com"
SECRET = "0x4AAAAAAA-secret-of-the-site"
SETTINGS: dict[str, Any] = {
    "turnstile_secret_key": SECRET,
    "turnstile_verify_url": "http://turnstile.example:80/turnstile/v0/siteverify",
    "site_url": "https://shop.example.com",
}
ROUTES = {"sign-up": "sign_up", "recover": "recover", "resend": "resend"}


def site() -> tuple[Any, Turnstile]:
    app = create_app(SECRET)
    return app, app.state.turnstile


async def ask(auth: AuthHarness, route: str, token: str | None) -> tuple[int, str | None]:
    body = {"email": ADA} | ({"password": PASSWORD} if route == "sign-up" else {})
    body |= {} if token is None else {"captcha_token": token}
    response = await auth.client.post(f"/v1/auth/{route}", json=body)
    return response.status_code, response.json().get("reason")


@pytest.mark.parametrize("route", ROUTES)
async def test_a_mail_takes_a_solved_challenge(open_auth: OpenAuth, route: str) -> None:
    app, turnstile = site()
    async with open_auth(settings=SETTINGS, turnstile=app) as auth:
        solved = Solved(hostname="shop.example.com", action=ROUTES[route])
        refused = (403, "captcha_failed")
        assert await ask(auth, route, None) == (422, "required")
        assert await ask(auth, route, "made-up") == refused
        other_page = Solved(hostname="evil.example", action=ROUTES[route])
        assert await ask(auth, route, turnstile.solve(other_page)) == refused
        other_act = Solved(hostname="shop.example.com", action="newsletter")
        assert await ask(auth, route, turnstile.solve(other_act)) == refused
        late = Solved(hostname="shop.example.com", action=ROUTES[route], age_seconds=301)
        assert await ask(auth, route, turnstile.solve(late)) == refused
        assert auth.mailbox.list_mails() == []
        token = turnstile.solve(solved)
        assert (await ask(auth, route, token))[0] in {200, 202}
        assert await ask(auth, route, token) == refused, "once"
        assert turnstile.asked[-1]["remoteip"] == "203.0.113.7"


async def test_sign_in_takes_none(open_auth: OpenAuth) -> None:
    app, turnstile = site()
    async with open_auth(settings=SETTINGS, turnstile=app) as auth:
        body = {"email": ADA, "password": PASSWORD}
        assert (await auth.client.post("/v1/auth/sign-in", json=body)).status_code == 401
    assert turnstile.asked == []


async def test_an_answer_that_was_lost_is_asked_for_again_under_the_same_key(
    open_auth: OpenAuth,
) -> None:
    app, turnstile = site()
    async with open_auth(settings=SETTINGS, turnstile=app) as auth:
        turnstile.away = 1
        token = turnstile.solve(Solved(hostname="shop.example.com", action="recover"))
        assert (await ask(auth, "recover", token))[0] == 202
        again = turnstile.verify(turnstile.asked[-1])
        assert again["success"], "the same key answers as the first did"


async def test_while_cloudflare_is_away_people_sign_up(open_auth: OpenAuth) -> None:
    app, turnstile = site()
    async with open_auth(settings=SETTINGS, turnstile=app) as auth:
        turnstile.away = 100
        assert (await ask(auth, "sign-up", "any"))[0] == 200
        assert await ask(auth, "sign-up", None) == (422, "required")


async def test_a_wrong_secret_is_our_fault_and_lets_nobody_pass(open_auth: OpenAuth) -> None:
    app, _ = site()
    settings = {**SETTINGS, "turnstile_secret_key": "0x-another"}
    async with open_auth(settings=settings, turnstile=app) as auth:
        assert (await ask(auth, "sign-up", "any"))[0] == 503


async def test_off_without_a_secret(auth: AuthHarness) -> None:
    assert (await ask(auth, "sign-up", None))[0] == 200


@pytest.mark.parametrize("secret", [ALWAYS_PASSES, ALWAYS_FAILS, ALWAYS_SPENT])
def test_production_refuses_the_secrets_for_tests(secret: str) -> None:
    with pytest.raises(SettingsError, match="TURNSTILE_SECRET_KEY"):
        load_settings({**PRODUCTION, "TURNSTILE_SECRET_KEY": secret})
    assert load_settings({**PRODUCTION, "TURNSTILE_SECRET_KEY": SECRET})


def test_the_stand_in_knows_the_secrets_for_tests() -> None:
    codes = {}
    for secret in (ALWAYS_PASSES, ALWAYS_FAILS, ALWAYS_SPENT, "", "other"):
        answer = Turnstile(SECRET).verify({"secret": secret, "response": "x"})
        codes[secret] = [answer["success"], *answer["error-codes"]]
    assert codes == {
        ALWAYS_PASSES: [True],
        ALWAYS_FAILS: [False, "invalid-input-response"],
        ALWAYS_SPENT: [False, "timeout-or-duplicate"],
        "": [False, "missing-input-secret"],
        "other": [False, "invalid-input-secret"],
    }
