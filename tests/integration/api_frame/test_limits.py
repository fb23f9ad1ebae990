"""Who is stopped, and who is not: a stranger who guesses or floods hurts himself only."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from core.settings import Settings
from sandbox.supabase.config import PLATFORM_LIMITS
from tests.integration.api_frame.conftest import PASSWORD, AuthHarness, OpenAuth, bearer

ADA = "ada@example.com"
HOME = "192.0.2.10"
STRANGER = "198.51.100.7"
# The test's own client is the proxy that says whose request it passes on.
PROXY: dict[str, Any] = {"trusted_proxies": ("203.0.113.7",)}
SHIPPED: dict[str, Any] = {**PROXY, "rate_limit_mails": "6/hour"}


def at(address: str) -> dict[str, str]:
    return {"x-forwarded-for": address}


async def post(
    auth: AuthHarness,
    route: str,
    address: str,
    headers: Mapping[str, str] | None = None,
    /,
    **body: Any,
) -> httpx.Response:
    return await auth.client.post(
        f"/v1/auth/{route}", json=body, headers={**at(address), **(headers or {})}
    )


async def sign_in(
    auth: AuthHarness, address: str, password: str = PASSWORD, email: str = ADA, **headers: str
) -> int:
    response = await post(auth, "sign-in", address, headers, email=email, password=password)
    return response.status_code


# --- a stranger does not end sign-in for the shop -------------------------------------------------


async def test_junk_from_one_address_leaves_the_others_alone(open_auth: OpenAuth) -> None:
    """With the platform's own limits on: they count whom we name, and junk is not asked about."""
    async with open_auth(settings=SHIPPED, **PLATFORM_LIMITS) as auth:
        session = await auth.join(ADA)
        for number in range(160):
            junk = f"{number:012d}"
            answer = await post(auth, "refresh", STRANGER, refresh_token=junk)
            assert answer.status_code in {401, 429}
        assert await sign_in(auth, HOME) == 200
        refreshed = await post(auth, "refresh", HOME, refresh_token=session["refresh_token"])
        assert refreshed.status_code == 200


async def test_one_network_does_not_use_up_the_mails_of_the_project(open_auth: OpenAuth) -> None:
    async with open_auth(settings=SHIPPED, **PLATFORM_LIMITS) as auth:
        codes = [
            (
                await post(
                    auth,
                    "sign-up",
                    f"198.51.100.{number}",
                    email=f"bot{number}@example.com",
                    password=PASSWORD,
                )
            ).status_code
            for number in range(1, 31)
        ]
        assert codes == [200] * 6 + [429] * 24
        answer = await post(auth, "sign-up", HOME, email=ADA, password=PASSWORD)
        assert answer.json()["status"] == "confirmation_sent"
        assert auth.mailbox.latest(to=ADA)


async def test_a_household_of_ipv6_has_no_budget_for_each_of_its_networks(
    open_auth: OpenAuth,
) -> None:
    async with open_auth(settings=SHIPPED, **PLATFORM_LIMITS) as auth:
        codes = [
            (
                await post(
                    auth,
                    "sign-up",
                    f"2001:db8:1:{number:x}::1",
                    email=f"b{number}@example.com",
                    password=PASSWORD,
                )
            ).status_code
            for number in range(20)
        ]
    assert codes == [200] * 12 + [429] * 8


async def test_a_refused_form_costs_no_mail(open_auth: OpenAuth) -> None:
    async with open_auth(settings=SHIPPED) as auth:
        for _ in range(8):
            weak = await post(auth, "sign-up", HOME, email=ADA, password="weak")
            assert weak.json()["reason"] == "weak_password"
        await post(auth, "sign-up", HOME, email=ADA, password=PASSWORD)
        assert auth.mailbox.latest(to=ADA)


async def test_calls_name_the_caller_and_carry_our_own_agent(open_auth: OpenAuth) -> None:
    """The gateway believes an address only from the secret key, and refuses it from a browser."""
    browser = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"}
    async with open_auth(settings=PROXY) as auth:
        await auth.join(ADA)
        credentials = {"email": ADA, "password": PASSWORD}
        answer = await post(auth, "sign-in", "::ffff:192.0.2.10", browser, **credentials)
        assert answer.status_code == 200
        row = auth.database.row(
            "select host(ip) as ip, user_agent from auth.sessions order by created_at desc limit 1"
        )
    assert row == {"ip": HOME, "user_agent": "jewelshot-api"}


async def test_a_call_for_a_person_says_so(open_auth: OpenAuth) -> None:
    """Every call has the project's key; only a person's own token lets it act for them."""
    async with open_auth(settings=PROXY) as auth:
        session = await auth.join(ADA)
        own = {**at(HOME), **bearer(session)}
        await auth.client.post("/v1/auth/mfa/factors", json={}, headers=own)
        await auth.client.put("/v1/auth/password", json={"password": "another one 12"}, headers=own)
        await auth.client.post("/v1/auth/logout", headers=own)
        calls = [each for each in auth.outside.sent if each.url.path.startswith("/auth/v1/")]
    asked = {each.url.path.removeprefix("/auth/v1/"): each.headers for each in calls}
    keys = asked.pop(".well-known/jwks.json", None)
    assert keys is None or "apikey" not in keys
    persons = {"factors", "user", "logout"}
    assert persons | {"signup", "verify"} <= set(asked)
    for path, headers in asked.items():
        if path == "settings":
            continue
        assert headers["apikey"] == "sb_secret_test", path
        assert headers["user-agent"] == "jewelshot-api", path
        assert headers["sb-forwarded-for"] in {HOME, "203.0.113.7"}, path
        whose = session["access_token"] if path in persons else "sb_secret_test"
        assert headers["authorization"] == f"Bearer {whose}", path


@pytest.mark.parametrize(
    "junk", ["x", "refresh-me", "a.b.c", "thirteen-char", "A" + "A" * 53, "z" * 129]
)
async def test_what_was_never_a_refresh_token_is_not_asked_about(
    auth: AuthHarness, junk: str
) -> None:
    # The service would fail: so it was not asked.
    await auth.arm_fault(path_contains="/token", status=500, times=None)
    answer = await auth.client.post("/v1/auth/refresh", json={"refresh_token": junk})
    assert (answer.status_code, answer.json()["reason"]) == (401, "refresh_token_not_found")
    possible = await auth.client.post("/v1/auth/refresh", json={"refresh_token": "abcdef012345"})
    assert possible.status_code == 503


# --- guessing -------------------------------------------------------------------------------------


async def test_who_guesses_is_locked_out_and_the_owner_is_not(open_auth: OpenAuth) -> None:
    async with open_auth(settings=PROXY) as auth:
        await auth.join(ADA)
        guesses = [await sign_in(auth, STRANGER, "wrong") for _ in range(35)]
        assert guesses[:30] == [401] * 30
        assert guesses[30:] == [429] * 5
        assert await sign_in(auth, HOME) == 200
        recovered = await post(auth, "recover", HOME, email=ADA)
        assert recovered.status_code == 202
        assert auth.mailbox.latest(to=ADA).kind == "recovery"


async def test_a_household_of_ipv6_locks_out_itself(open_auth: OpenAuth) -> None:
    """From its many networks it had 500 guesses, and then the owner got in from none of theirs."""
    async with open_auth(settings=PROXY) as auth:
        await auth.join(ADA)
        guesses = [
            await sign_in(auth, f"2001:db8:1:{number:x}::1", "wrong") for number in range(60)
        ]
        assert guesses == [401] * 30 + [429] * 30
        assert await sign_in(auth, HOME) == 200
        assert await sign_in(auth, "2001:db8:2::1") == 200


async def test_a_name_in_other_letters_is_no_other_name(open_auth: OpenAuth) -> None:
    """The sign-in service makes one small letter of a capital i with a dot, where we made two."""
    async with open_auth(settings=PROXY) as auth:
        spelled = [
            "mimi@example.com",
            "MIMI@example.com",
            "m\u0130mi@example.com",
            "m\u0130m\u0130@example.com",
        ]
        codes = [
            (await post(auth, "confirm", STRANGER, email=email, code="12345678")).status_code
            for email in spelled * 2
        ]
        assert codes == [401] * 5 + [429] * 3


async def test_many_networks_stop_at_a_higher_figure_and_known_ones_pass(
    open_auth: OpenAuth,
) -> None:
    async with open_auth(settings=PROXY) as auth:
        await auth.join(ADA)
        assert await sign_in(auth, HOME) == 200
        guesses = 0
        for number in itertools.count():
            status = await sign_in(auth, f"198.51.{100 + number // 25}.{number % 25}", "wrong")
            if status == 429:
                break
            assert status == 401
            guesses += 1
        assert guesses == 500
        assert await sign_in(auth, "192.0.2.99") == 429
        assert await sign_in(auth, HOME, "mistyped") == 401
        assert await sign_in(auth, HOME) == 200


async def test_a_right_password_forgets_the_wrong_ones(open_auth: OpenAuth) -> None:
    settings = {**PROXY, "rate_limit_auth": "1000/minute"}
    async with open_auth(settings=settings) as auth:
        await auth.join(ADA)
        for _ in range(2):
            assert [await sign_in(auth, HOME, "wrong") for _ in range(13)] == [401] * 13
            assert await sign_in(auth, HOME) == 200


async def test_a_mailed_code_is_tried_five_times(open_auth: OpenAuth) -> None:
    async with open_auth(settings=PROXY) as auth:
        await auth.sign_up(ADA)
        code = auth.code(ADA)
        assert len(code) == 8
        wrong = {"email": ADA, "code": f"{(int(code) + 1) % 10**8:08d}", "type": "signup"}
        tries = [(await post(auth, "confirm", STRANGER, **wrong)).status_code for _ in range(7)]
        assert tries == [401] * 5 + [429] * 2
        right = {"email": ADA, "code": code, "type": "signup"}
        assert (await post(auth, "confirm", STRANGER, **right)).status_code == 429
        assert (await post(auth, "confirm", HOME, **right)).status_code == 200


# --- networks -------------------------------------------------------------------------------------


async def test_a_household_is_one_caller_and_tokens_replace_nothing(open_auth: OpenAuth) -> None:
    async with open_auth(settings=PROXY) as auth:
        sessions = [await auth.join(f"own{number}@example.com") for number in range(4)]
        of_one_network = [
            await sign_in(auth, f"2001:db8:1:2::{number:x}", "wrong", f"p{number}@example.com")
            for number in range(1, 41)
        ]
        assert of_one_network == [401] * 30 + [429] * 10
        assert await sign_in(auth, "2001:db8:1:3::1", "wrong") == 401
        # With the tokens of accounts of his own, from the network that is used up.
        attached = [
            await sign_in(auth, "2001:db8:1:2::1", "wrong", "q@example.com", **bearer(session))
            for session in sessions
            for _ in range(5)
        ]
        assert attached == [429] * 20


async def test_the_mapped_form_is_the_same_address(open_auth: OpenAuth) -> None:
    async with open_auth(settings=PROXY) as auth:
        forms = itertools.cycle((STRANGER, f"::ffff:{STRANGER}", "::ffff:c633:6407"))
        codes = [
            await sign_in(auth, address, "wrong", f"p{number}@example.com")
            for number, address in zip(range(33), forms, strict=False)
        ]
    assert codes == [401] * 30 + [429] * 3


# --- who has an account ---------------------------------------------------------------------------


class _Seen(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    headers: list[tuple[str, str]]

    @classmethod
    def of(cls, response: httpx.Response) -> "_Seen":
        varying = {"x-request-id", "ratelimit", "x-ratelimit-reset", "x-ratelimit-remaining"}
        return cls(
            response.status_code,
            response.content,
            sorted(
                (name, value) for name, value in response.headers.items() if name not in varying
            ),
        )


@pytest.mark.parametrize("route", ["sign-up", "recover", "resend"])
async def test_known_and_unknown_addresses_are_answered_the_same(
    open_auth: OpenAuth, route: str
) -> None:
    """Also a second time within the platform's minute between two mails to one address."""
    body = {"password": PASSWORD} if route == "sign-up" else {}
    async with open_auth(settings=PROXY, **PLATFORM_LIMITS) as auth:
        await auth.join("confirmed@example.com")
        await auth.sign_up("waiting@example.com")
        seen = [
            _Seen.of(await post(auth, route, f"192.0.2.{number}", email=email, **body))
            for number, email in enumerate(
                [
                    *["confirmed@example.com"] * 3,
                    *["waiting@example.com"] * 3,
                    *["nobody@example.com"] * 3,
                ]
            )
        ]
        # The project's mails of the hour are used up.
        for number in range(40):
            email = f"more{number}@example.com"
            await post(auth, "sign-up", f"192.0.3.{number}", email=email, password=PASSWORD)
        seen += [
            _Seen.of(await post(auth, route, f"192.0.4.{number}", email=email, **body))
            for number, email in enumerate(["confirmed@example.com", "someone@example.com"])
        ]
    assert {each.status for each in seen} <= {200, 202}
    assert len({msgspec.json.encode(each) for each in seen}) == 1


async def test_time_does_not_tell_either(open_auth: OpenAuth) -> None:
    """The service takes long where it knows the address: a mail to send, a password to hash."""
    settings = {**PROXY, "auth_answer_seconds": 0.3}
    async with open_auth(settings=settings) as auth:
        await auth.join(ADA)

        async def seconds(route: str, **body: str) -> float:
            started = time.perf_counter()
            await post(auth, route, HOME, **body)
            return time.perf_counter() - started

        for route, more in (("recover", {}), ("resend", {}), ("sign-in", {"password": "wrong"})):
            quick = [await seconds(route, email="nobody@example.com", **more) for _ in range(3)]
            path = "/token" if route == "sign-in" else f"/{route}"
            await auth.arm_fault(path_contains=path, status=None, delay_seconds=0.12, times=3)
            slow = [await seconds(route, email=ADA, **more) for _ in range(3)]
            assert min(quick) >= 0.3
            assert statistics.median(slow) - statistics.median(quick) < 0.09
        # What takes longer than the answer goes on behind it.
        auth.mailbox.clear()
        await auth.arm_fault(path_contains="/recover", status=None, delay_seconds=0.8)
        assert await seconds("recover", email=ADA) < 0.75
        for _ in range(100):
            if auth.mailbox.list_mails(to=ADA):
                break
            await asyncio.sleep(0.05)
        assert auth.mailbox.latest(to=ADA).kind == "recovery"


async def test_a_flood_of_mails_to_one_address_ends_unseen(open_auth: OpenAuth) -> None:
    """From many networks: the link that the owner opens is not voided for ever."""
    async with open_auth(settings=PROXY) as auth:
        await auth.join(ADA)
        auth.mailbox.clear()
        answers = [
            (await post(auth, "recover", f"198.51.{number}.1", email=ADA)).status_code
            for number in range(12)
        ]
        assert answers == [202] * 12
        assert len(auth.mailbox.list_mails(to=ADA)) == 6


# --- one round trip -------------------------------------------------------------------------------


async def test_all_limits_of_a_request_are_one_round_trip(
    open_auth: OpenAuth, settings: Settings
) -> None:
    async with open_auth(settings=PROXY) as auth, _commands(settings) as count:
        headers = {**at(HOME), **bearer(await auth.join(ADA))}
        for path, limits in (("/v1/me", 1), ("/v1/packs", 2)):
            before = await count()
            response = await auth.client.get(path, headers=headers)
            assert response.status_code == 200
            assert await count() - before == 1, (path, limits)


@contextlib.asynccontextmanager
async def _commands(settings: Settings) -> AsyncIterator[Callable[[], Any]]:
    """How many scripts the server was asked to run."""
    redis: Redis = Redis.from_url(settings.redis_url.get_secret_value())

    async def count() -> int:
        stats = await redis.info("commandstats")
        return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))

    try:
        yield count
    finally:
        await redis.aclose()
