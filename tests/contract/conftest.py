"""The same assertions against the sandbox, always, and against Stripe's test mode, on request.

    STRIPE_CONTRACT_KEY=sk_test_… python -m pytest tests/contract

Without a key the second half is skipped, visibly. It leaves test objects behind in the account.
"""

import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import httpx
import pytest
import stripe
from pytest_socket import socket_allow_hosts

from sandbox.stripe.config import StripeSandboxConfig
from sandbox.stripe.in_process import InProcessTransport
from tests.harness.applications import opened_stripe
from tests.integration.sandbox_stripe.support import BASE, KEY, SdkTransport

KEY_VARIABLE = "STRIPE_CONTRACT_KEY"
HOST = "api.stripe.com"
LOOPBACK = ["127.0.0.1", "::1", "localhost"]
# Test mode tells of events and disputes after some seconds.
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0


class Contract(NamedTuple):
    v1: Any  # expandable fields are unions, which tests would assert away
    key: str
    client_of: Callable[[str], stripe.StripeClient]
    run: str  # makes names unique in an account that remembers earlier runs

    async def eventually(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """The first truthy answer."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while not (seen := await read()):  # noqa: ASYNC110  another machine is waited for
                await anyio.sleep(PAUSE_SECONDS)
            return seen


def _real() -> Any:
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        reason = f"no {KEY_VARIABLE}: Stripe itself was not asked"
        return pytest.param("stripe", marks=pytest.mark.skip(reason=reason))
    if not key.startswith(("sk_test_", "rk_test_")):
        raise pytest.UsageError(f"{KEY_VARIABLE} must be a key of test mode")
    return "stripe"


def _certificates() -> ssl.SSLContext:
    """Those of the world; a run of tests trusts nobody (tests/harness/run.py)."""
    return httpx.create_ssl_context(trust_env=False)


def _open_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets may go to one address of Stripe's, and every look-up of its name finds that one."""
    resolve = socket.getaddrinfo
    address = str(resolve(HOST, 443, type=socket.SOCK_STREAM)[0][4][0])

    def pinned(host: Any, *rest: Any, **more: Any) -> Any:
        return resolve(address if host == HOST else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", pinned)
    socket_allow_hosts([*LOOPBACK, address], allow_unix_socket=True)


@pytest.fixture(params=["sandbox", _real()])
async def contract(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Contract]:
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    run = secrets.token_hex(4)
    if request.param == "stripe":
        _open_the_way(monkeypatch)
        async with httpx.AsyncClient(timeout=30, verify=_certificates()) as http:
            yield _contract(os.environ[KEY_VARIABLE], http, {}, run)
        return
    async with (
        opened_stripe(StripeSandboxConfig()) as app,
        httpx.AsyncClient(transport=InProcessTransport(app)) as http,
    ):
        yield _contract(KEY, http, {"api": BASE}, run)


def _contract(key: str, http: httpx.AsyncClient, addresses: Any, run: str) -> Contract:
    def client_of(a_key: str) -> stripe.StripeClient:
        return stripe.StripeClient(a_key, base_addresses=addresses, http_client=SdkTransport(http))

    return Contract(client_of(key).v1, key, client_of, run)
