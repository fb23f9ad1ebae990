"""Request ids, addresses, headers, CORS and the one log line."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from litestar import get
from litestar.params import FromPath
from litestar.types import Scope
from structlog.testing import capture_logs

from api.middleware.clients import ClientAddress
from core.settings import Settings
from tests.harness.http import offline_client
from tests.harness.tokens import TokenIssuer

ORIGIN = "https://shop.example.com"


async def test_a_sane_request_id_is_kept_and_another_is_not(settings: Settings) -> None:
    async with offline_client(settings) as client:
        kept = await client.get("/healthz", headers={"x-request-id": "abc-123.def_456"})
        assert kept.headers["x-request-id"] == "abc-123.def_456"
        for bad in ("short", "x" * 65, "has space in it", 'quote"quote'):
            made = await client.get("/healthz", headers={"x-request-id": bad})
            assert made.headers["x-request-id"] != bad
            assert len(made.headers["x-request-id"]) == 32
        first = await client.get("/healthz")
        second = await client.get("/healthz")
        assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_security_headers_stand_on_every_answer(
    make_settings: Callable[..., Settings],
) -> None:
    async with offline_client(make_settings(public_base_url="https://api.example.com")) as client:
        for path in ("/healthz", "/nowhere", "/docs", "/auth/confirm", "/schema/openapi.json"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["strict-transport-security"].startswith("max-age=")
            assert "default-src 'none'" in headers["content-security-policy"]
            assert len(headers.get_list("content-security-policy")) == 1
            assert len(headers.get_list("content-type")) == 1
        assert (await client.get("/healthz")).headers["cache-control"] == "no-store"


async def test_one_line_for_each_request(settings: Settings, issuer: TokenIssuer) -> None:
    @get("/things/{name:str}")
    async def get_thing(name: FromPath[str]) -> dict[str, str]:
        return {"name": name}

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with offline_client(
            settings, transport=issuer.transport(), routes=[get_thing]
        ) as client:
            response = await client.get("/things/one?token=secret", headers=issuer.headers())
            await client.get("/healthz")
    (line,) = [line for line in lines if line["event"] == "http.request"]
    assert line["route"] == "/things/{name}"
    assert (line["method"], line["status"]) == ("GET", 200)
    assert line["duration_ms"] > 0
    assert line["user_id"]
    assert line["request_id"] == response.headers["x-request-id"]
    assert "secret" not in str(lines)
    assert "ada@example.com" not in str(lines)
    assert structlog.contextvars.get_contextvars().get("request_id") is None


async def test_a_crash_has_a_line_and_an_id_too(settings: Settings) -> None:
    with capture_logs() as lines:
        async with offline_client(settings) as client:
            await client.get("/nowhere")
    (line,) = [line for line in lines if line["event"] == "http.request"]
    assert (line["route"], line["status"]) == ("(none)", 404)


async def test_cors_knows_its_list_only(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(cors_allowed_origins=(ORIGIN,))
    preflight = {"access-control-request-method": "POST"}
    async with offline_client(settings) as client:
        allowed = await client.options("/v1/me", headers={"origin": ORIGIN, **preflight})
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "Idempotency-Key" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        for stranger in ("https://evil.example.com", f"{ORIGIN}.evil.com", "null"):
            for response in (
                await client.options("/v1/me", headers={"origin": stranger, **preflight}),
                await client.get("/healthz", headers={"origin": stranger}),
            ):
                assert not [name for name in response.headers if name.startswith("access-control")]
                assert response.headers["vary"] == "Origin"
        refused = await client.get("/v1/me", headers={"origin": ORIGIN})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in refused.headers["access-control-expose-headers"]


async def test_without_a_list_there_is_no_cors(settings: Settings) -> None:
    async with offline_client(settings) as client:
        response = await client.get("/healthz", headers={"origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]


def _scope(peer: str | None, *forwarded: str) -> Scope:
    scope: Any = {
        "client": (peer, 1) if peer else None,
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
    }
    return scope  # type: ignore[no-any-return]  # only what is read


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ([], "198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        (["10.0.0.0/8"], "198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        (["10.0.0.0/8"], "10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.1.1.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.1.1.1", ["6.6.6.6, 203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.1.1.1", ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.1.1.1", ["203.0.113.9:4711"], "203.0.113.9"),
        (["10.0.0.0/8"], "10.1.1.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        (["10.0.0.0/8"], "10.1.1.1", ["garbage"], "10.1.1.1"),
        (["10.0.0.0/8"], "10.1.1.1", ["6.6.6.6, garbage, 10.2.2.2"], "10.2.2.2"),
        (["10.0.0.0/8"], "10.1.1.1", [], "10.1.1.1"),
        (["10.0.0.0/8"], "::ffff:10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        (["::1/128"], "::1", ["2001:db8::5"], "2001:db8::5"),
        ([], None, [], "unknown"),
    ],
)
def test_the_client_behind_proxies(
    trusted: list[str], peer: str | None, forwarded: list[str], expected: str
) -> None:
    assert ClientAddress(trusted).of(_scope(peer, *forwarded)) == expected


def test_a_proxy_list_with_a_mistake_does_not_start() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        ClientAddress(["10.0.0.0/99"])


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "unnamed"),
    [
        ((), "10.0.0.5", "198.51.100.7", "10.0.0.5"),
        ((), "100.64.0.3", "198.51.100.7", "100.64.0.3"),
        ((), "::ffff:10.0.0.5", "198.51.100.7", "::ffff:10.0.0.5"),
        ((), "10.0.0.5", None, None),
        ((), "198.51.100.7", "1.2.3.4", None),
        (("10.0.0.0/8",), "10.0.0.5", "198.51.100.7", None),
        (("10.0.0.5/32",), "10.0.0.5", "198.51.100.7, 192.168.1.1", "192.168.1.1"),
        (("10.0.0.5/32",), "10.0.0.5", "1.2.3.4, 198.51.100.7", None),
    ],
)
def test_a_proxy_that_nobody_named_is_noticed(
    trusted: tuple[str, ...], peer: str, forwarded: str | None, unnamed: str | None
) -> None:
    clients = ClientAddress(trusted)
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    scope: Any = {"client": (peer, 1), "headers": headers}
    clients.of(scope)
    assert clients.unnamed_proxy == unnamed
