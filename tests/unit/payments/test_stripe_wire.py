"""What of Stripe's answers is asked for again, and how often."""

from collections.abc import Callable

import httpx
import pytest
from structlog.testing import capture_logs

from core.payments.provider import (
    ProviderAnswerError,
    ProviderCredentialsError,
    ProviderRefusedError,
    ProviderServerError,
    ProviderUnavailableError,
    Refused,
)
from core.payments.stripe.wire import CLICK, LOOK, call, library_client
from core.settings import Settings

_LIMITED = httpx.Response(
    429, json={"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "sk_x"}}
)
_KEY = {"idempotency_key": "order-1"}
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
    there = _Stripe(settings, [_LIMITED, _LIMITED, _MADE])
    with capture_logs() as lines:
        made = await call(there.customers.create_async, {}, _KEY, patience=CLICK)
    assert made["id"] == "cus_1"
    assert there.keys == ["order-1"] * 3
    assert [line["event"] for line in lines] == ["stripe.call_repeated"] * 2
    assert "sk_x" not in str(lines)
    assert "order-1" not in str(lines)


async def test_not_for_ever(settings: Settings) -> None:
    there = _Stripe(settings, [_LIMITED] * 9)
    with pytest.raises(ProviderUnavailableError) as caught:
        await call(there.customers.create_async, {}, _KEY, patience=CLICK)
    assert caught.value.reason == "rate_limited"
    assert len(there.keys) == CLICK.tries


async def test_a_look_is_not_repeated(settings: Settings) -> None:
    """The task runs again, and leaves its place to others meanwhile."""
    there = _Stripe(settings, [_LIMITED] * 9)
    with pytest.raises(ProviderUnavailableError):
        await call(there.customers.create_async, {}, _KEY, patience=LOOK)
    assert len(there.keys) == 1


async def test_a_key_in_use_is_waited_for(settings: Settings) -> None:
    """Longer than what failed: the first call under the key has its answer for both."""
    busy = {"error": {"type": "idempotency_error", "code": "idempotency_key_in_use"}}
    there = _Stripe(settings, [*[httpx.Response(409, json=busy)] * 5, _MADE])
    made = await call(there.customers.create_async, {}, _KEY, patience=CLICK)
    assert (made["id"], len(there.keys)) == ("cus_1", 6)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"error": {"type": "invalid_request_error"}}),
        httpx.Response(403, json={"error": {"type": "invalid_request_error"}}),
        httpx.Response(401, text="<html>"),
    ],
)
async def test_a_refused_key_is_known_by_the_status(
    answer: httpx.Response, settings: Settings
) -> None:
    there = _Stripe(settings, [answer])
    with pytest.raises(ProviderCredentialsError):
        await call(there.customers.create_async, {}, _KEY, patience=CLICK)
    assert len(there.keys) == 1


async def test_what_stripe_says_not_to_repeat_is_not_repeated(settings: Settings) -> None:
    stored = httpx.Response(
        500, json={"error": {"type": "api_error"}}, headers={"stripe-should-retry": "false"}
    )
    there = _Stripe(settings, [stored, _MADE])
    with pytest.raises(ProviderServerError):
        await call(there.customers.create_async, {}, _KEY, patience=CLICK)
    assert len(there.keys) == 1


async def test_a_refusal_is_final(settings: Settings) -> None:
    refused = {"error": {"type": "invalid_request_error", "code": "parameter_unknown"}}
    there = _Stripe(settings, [httpx.Response(400, json=refused)])
    with pytest.raises(ProviderRefusedError):
        await call(there.customers.create_async, {}, {"idempotency_key": "order-1"})
    assert len(there.keys) == 1


async def test_a_page_of_a_proxy_is_no_refusal_of_stripes(settings: Settings) -> None:
    there = _Stripe(settings, [httpx.Response(404, text="<html>")])
    with pytest.raises(ProviderAnswerError):
        await call(there.customers.create_async, {}, _KEY, patience=CLICK)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        ({"param": "line_items[0][price]", "message": "is inactive"}, Refused.PRICE),
        ({"message": "The price specified is inactive. This field..."}, Refused.PRICE),
        ({"param": "line_items[0][price]", "code": "resource_missing"}, Refused.PRICE),
        ({"param": "line_items[0][quantity]", "message": "invalid"}, None),
        ({"param": "expires_at", "message": "must be at least"}, Refused.EXPIRY),
        ({"param": "customer", "code": "resource_missing"}, Refused.CUSTOMER),
        ({"param": "id", "code": "resource_missing"}, Refused.SUBJECT),
        ({"param": "customer", "message": "something else"}, None),
    ],
)
async def test_what_of_a_call_is_refused(
    error: dict[str, str], part: Refused | None, settings: Settings
) -> None:
    body = {"error": {"type": "invalid_request_error", **error}}
    there = _Stripe(settings, [httpx.Response(400, json=body)])
    with pytest.raises(ProviderRefusedError) as caught:
        await call(there.customers.create_async, {}, _KEY, patience=CLICK)
    assert caught.value.part is part
