"""What of Stripe's answers is asked for again, and how often."""

from collections.abc import Callable

import httpx
import pytest
from structlog.testing import capture_logs

from core.payments.provider import ProviderRefusedError, ProviderUnavailableError
from core.payments.stripe.wire import call, library_client
from core.settings import Settings

_LIMITED = httpx.Response(
    429, json={"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "sk_x"}}
)
_MADE = httpx.Response(200, json={"id": "cus_1", "object": "customer"})


class _Stripe:
    def __init__(self, settings: Settings, answers: list[httpx.Response]) -> None:
        self.answers = answers
        self.keys: list[str] = []
        self.http = httpx.AsyncClient(transport=httpx.MockTransport(self._say))
        self.customers = library_client(settings, self.http).v1.customers

    async def _say(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers["idempotency-key"])
        return self.answers.pop(0)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(stripe_secret_key="sk_test_x", stripe_api_url=None)


async def test_too_many_requests_are_repeated_with_the_same_key(settings: Settings) -> None:
    there = _Stripe(settings, [_LIMITED, _LIMITED, _LIMITED, _MADE])
    with capture_logs() as lines:
        made = await call(there.customers.create_async, {}, {"idempotency_key": "order-1"})
    assert made["id"] == "cus_1"
    assert there.keys == ["order-1"] * 4
    assert [line["event"] for line in lines] == ["call.retried"] * 3
    assert "sk_x" not in str(lines)
    assert "order-1" not in str(lines)


async def test_not_for_ever(settings: Settings) -> None:
    there = _Stripe(settings, [_LIMITED] * 9)
    with pytest.raises(ProviderUnavailableError) as caught:
        await call(there.customers.create_async, {}, {"idempotency_key": "order-1"})
    assert caught.value.reason == "rate_limited"
    assert len(there.keys) == 4


async def test_a_refusal_is_final(settings: Settings) -> None:
    refused = {"error": {"type": "invalid_request_error", "code": "parameter_unknown"}}
    there = _Stripe(settings, [httpx.Response(400, json=refused)])
    with pytest.raises(ProviderRefusedError):
        await call(there.customers.create_async, {}, {"idempotency_key": "order-1"})
    assert len(there.keys) == 1
