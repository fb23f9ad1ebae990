"""Who gets in: users, admins, the break-glass key, internal callers; and how often."""

import uuid
from collections.abc import Callable
from typing import Any

from litestar import get, post
from litestar.routes import HTTPRoute
from structlog.testing import capture_logs

from api.identity import CurrentAdmin, CurrentUser, internal_guard
from api.openapi import BEARER
from core.settings import Settings
from tests.harness.http import borrowed_app, offline_client
from tests.harness.tokens import TokenIssuer

ADMIN_KEY = "break-glass-0123456789abcdef"


@get("/who")
async def who(user: CurrentUser) -> dict[str, Any]:
    return {"role": user.scope.role, "sub": user.scope.claims["sub"], "ip": user.client_ip}


@get("/admin-only")
async def admin_only(admin: CurrentAdmin) -> dict[str, Any]:
    return {"role": admin.scope.role, "actor": admin.actor, "claims": dict(admin.scope.claims)}


@get("/internal-only", guards=[internal_guard])
async def internal_only() -> None:
    return None


@get("/mine", security=BEARER)
async def read_mine(user: CurrentUser) -> dict[str, Any]:
    return {"sub": user.scope.claims["sub"]}


@get("/open")
async def open_to_all() -> None:
    return None


@post("/limited", opt={"rate_limit": "auth"}, status_code=204)
async def limited() -> None:
    return None


ROUTES = [who, admin_only, internal_only, read_mine, open_to_all, limited]


async def test_a_user_brings_their_scope(settings: Settings, issuer: TokenIssuer) -> None:
    user_id = uuid.uuid4()
    async with offline_client(settings, transport=issuer.transport(), routes=ROUTES) as client:
        answer = (await client.get("/who", headers=issuer.headers(user_id))).json()
        assert answer == {"role": "jewelshot_user", "sub": str(user_id), "ip": "203.0.113.7"}
        nobody = await client.get("/who")
        assert (nobody.status_code, nobody.json()["reason"]) == (401, "no_token")
        assert nobody.json()["type"].endswith("/unauthenticated")
        assert nobody.headers["www-authenticate"].startswith("Bearer")
        basic = await client.get("/who", headers={"authorization": "Basic YTpi"})
        assert basic.json()["reason"] == "no_token"
        stale = await client.get("/who", headers=issuer.headers(exp=1_000_000_000))
        assert stale.json()["reason"] == "expired_token"
        elsewhere = await client.get("/open", headers=issuer.headers(exp=1_000_000_000))
        assert elsewhere.status_code == 200


async def test_who_asks_is_asked_first_and_dependencies_in_turn(settings: Settings) -> None:
    """Else a wrong header would now and then hide that nobody has signed in."""
    headers = {"Idempotency-Key": "k" * 300, "Prefer": "wait=1"}
    async with offline_client(settings) as client:
        answers = [await client.post("/v1/portal", headers=headers) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [401] * 5
    with borrowed_app(settings) as app:
        batches = [
            batch
            for route in app.routes
            if isinstance(route, HTTPRoute)
            for _, model in route.route_handler_map.values()
            for batch in model.dependency_batches
        ]
    assert len(batches) > 100
    assert {len(batch) for batch in batches} == {1}


async def test_an_admin_needs_role_and_second_factor(
    settings: Settings, issuer: TokenIssuer
) -> None:
    role: dict[str, Any] = {"app_metadata": {"role": "admin"}}
    async with offline_client(settings, transport=issuer.transport(), routes=ROUTES) as client:

        async def reason(**claims: Any) -> Any:
            response = await client.get("/admin-only", headers=issuer.headers(**claims))
            assert response.status_code == 403
            return response.json()["reason"]

        assert await reason() == "not_an_admin"
        assert await reason(aal="aal2") == "not_an_admin"
        assert await reason(aal="aal2", user_metadata={"role": "admin"}) == "not_an_admin"
        assert await reason(**role) == "mfa_required"
        assert (await client.get("/admin-only")).status_code == 401


async def test_break_glass_is_off_unless_set(settings: Settings) -> None:
    async with offline_client(settings, routes=ROUTES) as client:
        for key in ("", "None", ADMIN_KEY):
            response = await client.get("/admin-only", headers={"x-admin-key": key})
            assert (response.status_code, response.json()["reason"]) == (401, "admin_key")


async def test_break_glass_alarms_and_is_limited(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(admin_dashboard_key=ADMIN_KEY)
    with capture_logs() as lines:
        async with offline_client(settings, routes=ROUTES) as client:
            opened = await client.get("/admin-only", headers={"x-admin-key": ADMIN_KEY})
            tries = [
                (await client.get("/admin-only", headers={"x-admin-key": "guess"})).status_code
                for _ in range(10)
            ]
            after = await client.get("/admin-only", headers={"x-admin-key": ADMIN_KEY})
    assert opened.json()["actor"] == "break-glass"
    assert opened.json()["claims"] == {
        "sub": None,
        "role": "jewelshot_admin",
        "app_metadata": {"role": "admin"},
        "aal": "aal2",
        "break_glass": True,
    }
    assert tries == [401] * 9 + [429]
    assert after.status_code == 429
    assert [line["log_level"] for line in lines if line["event"] == "admin.break_glass_used"] == [
        "critical"
    ]
    assert ADMIN_KEY not in str(lines)


async def test_break_glass_counts_networks_whatever_token_is_attached(
    make_settings: Callable[..., Settings], issuer: TokenIssuer
) -> None:
    settings = make_settings(admin_dashboard_key=ADMIN_KEY, trusted_proxies=("203.0.113.7",))
    async with offline_client(settings, transport=issuer.transport(), routes=ROUTES) as client:
        tries = [
            (
                await client.get(
                    "/admin-only",
                    headers={
                        "x-admin-key": "guess",
                        "x-forwarded-for": f"2001:db8::{number:x}",
                        **issuer.headers(),
                    },
                )
            ).status_code
            for number in range(1, 31)
        ]
    assert tries == [401] * 10 + [429] * 20


async def test_internal_callers_may_use_either_secret(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(internal_api_secret="new", internal_api_secret_previous="old")
    async with offline_client(settings, routes=ROUTES) as client:
        for token, status in (("new", 200), ("old", 200), ("newer", 401), ("", 401), ("né", 401)):
            response = await client.get(
                "/internal-only", headers={b"x-internal-token": token.encode()}
            )
            assert response.status_code == status
        assert (await client.get("/internal-only")).status_code == 401


async def test_without_secrets_nobody_is_internal(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(internal_api_secret=None)
    async with offline_client(settings, routes=ROUTES) as client:
        for token in ("", "None"):
            response = await client.get("/internal-only", headers={"x-internal-token": token})
            assert response.status_code == 401


async def test_limits_per_user_and_network(
    make_settings: Callable[..., Settings], issuer: TokenIssuer
) -> None:
    settings = make_settings(rate_limit_user="3/minute", rate_limit_ip="5/minute")
    ada, bob = issuer.headers(), issuer.headers()
    async with offline_client(settings, transport=issuer.transport(), routes=ROUTES) as client:
        first = await client.get("/mine", headers=ada)
        assert first.headers["ratelimit-policy"] == '"user";q=3;w=60'
        assert first.headers["ratelimit"].startswith('"user";r=2;t=')
        assert first.headers["x-ratelimit-limit"] == "3"
        assert first.headers["x-ratelimit-remaining"] == "2"
        assert [(await client.get("/mine", headers=ada)).status_code for _ in range(3)] == [
            200,
            200,
            429,
        ]
        assert (await client.get("/mine", headers=bob)).status_code == 200
        assert [(await client.get("/open")).status_code for _ in range(6)] == [200] * 5 + [429]
        refused = await client.get("/open")
        assert refused.json()["policy"] == "ip"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert (await client.get("/healthz")).status_code == 200
        # A token replaces the network's count only where one is needed.
        assert (await client.get("/open", headers=bob)).status_code == 429
        assert (await client.get("/mine", headers=bob)).status_code == 200


async def test_a_token_is_no_second_try_for_a_named_limit(
    make_settings: Callable[..., Settings], issuer: TokenIssuer
) -> None:
    settings = make_settings(rate_limit_auth="2/5 minutes")
    async with offline_client(settings, transport=issuer.transport(), routes=ROUTES) as client:
        codes = [
            (await client.post("/limited", headers=issuer.headers())).status_code for _ in range(3)
        ]
    assert codes == [204, 204, 429]


async def test_neighbours_of_an_ipv6_network_count_together(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(rate_limit_ip="1/minute", trusted_proxies=("203.0.113.7",))
    asked = [
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 200),
        ("::ffff:198.51.100.1", 200),
        ("198.51.100.1", 429),
        ("64:ff9b::c633:6401", 429),
        ("2002:c633:6401::1", 429),
        ("198.51.100.2", 200),
    ]
    async with offline_client(settings, routes=ROUTES) as client:
        for client_ip, status in asked:
            response = await client.get("/open", headers={"x-forwarded-for": client_ip})
            assert response.status_code == status, client_ip


async def test_a_named_limit_counts_per_route(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(rate_limit_auth="2/5 minutes")
    async with offline_client(settings, routes=ROUTES) as client:
        codes = [(await client.post("/limited")).status_code for _ in range(3)]
        assert codes == [204, 204, 429]
        assert (await client.get("/open")).status_code == 200


async def test_limits_can_be_off(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(rate_limits_enabled=False, rate_limit_ip="1/minute")
    async with offline_client(settings, routes=ROUTES) as client:
        responses = [await client.get("/open") for _ in range(3)]
    assert [response.status_code for response in responses] == [200] * 3
    assert "ratelimit" not in responses[0].headers
