from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import stripe

from sandbox.stripe.config import Endpoint, StripeSandboxConfig
from tests.harness.applications import opened_stripe
from tests.integration.sandbox_stripe.support import HOOK, SECRET, Inbox, Stripe

MakeStripe = Callable[..., Awaitable[Stripe]]


@pytest.fixture(autouse=True)
def _quiet_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
async def make_stripe() -> AsyncIterator[MakeStripe]:
    """Build a sandbox; keyword arguments replace fields of its configuration."""
    async with AsyncExitStack() as stack:

        async def make(**overrides: Any) -> Stripe:
            inbox = Inbox()
            fields = {
                "endpoints": (Endpoint(url=HOOK, secrets=(SECRET,)),),
                "webhook_schedule_seconds": (0.0, 0.0, 0.0),
                "extra_hosts": frozenset({"api.test"}),
                "transport": httpx.ASGITransport(app=inbox),
            }
            config = StripeSandboxConfig(**{**fields, **overrides})
            made = Stripe(await stack.enter_async_context(opened_stripe(config)), inbox)
            stack.push_async_callback(made.aclose)
            return made

        yield make


@pytest.fixture
async def pay(make_stripe: MakeStripe) -> Stripe:
    return await make_stripe()
