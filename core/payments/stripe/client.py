"""Stripe on the wire: the official client over our own transport, and its errors as ours.

Plain structs go out of here; StripeObject is no dict and does not leave this module. Nothing here
knows the database, and nobody calls it inside a transaction.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import httpx
import msgspec
import stripe
import structlog

from core.payments.types import (
    Charge,
    Invoice,
    PaymentIntent,
    Price,
    Session,
    StripeDispute,
    StripeRefund,
)
from core.settings import Settings

log = structlog.get_logger()

API_VERSION: Final = "2026-10-28.endive"
"""Pinned here and at the webhook endpoint: an upgrade of the client is a new endpoint."""
_RATE_LIMIT_ATTEMPTS: Final = 4
_PAGE: Final = 100

T = TypeVar("T")
Struct = TypeVar("Struct", bound=msgspec.Struct)


class StripeError(Exception):
    """Base. `reason` is a stable word of ours, never the vendor's text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StripeUnreachableError(StripeError):
    """No answer, too many requests or a broken one: the outcome may be unknown. Same key again."""


class StripeServerError(StripeUnreachableError):
    """A 5xx answer: Stripe may have stored it with its key, so the next call takes a new key."""


class StripeRefusedError(StripeError):
    """Stripe understood and says no; `reason` is its code, `param` the parameter it names."""

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__(reason)
        self.param = param

    @property
    def is_missing(self) -> bool:
        return self.reason == "resource_missing"


class StripeKeyReusedError(StripeError):
    """The idempotency key was used with other parameters."""


class StripeCredentialsError(StripeError):
    """The key is wrong or may not do this: a matter for the operator."""


class _Transport(stripe.HTTPClient):
    """The client's own httpx transport trips over newer httpx; this is all that it needs."""

    name = "httpx"

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__()
        self._http = http

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            answer = await self._http.request(method, url, headers=dict(headers), content=post_data)
        except httpx.HTTPError as error:
            raise _no_answer(type(error).__name__) from error
        return answer.content, answer.status_code, answer.headers

    def sleep_async(self, secs: float) -> Awaitable[None]:
        return asyncio.sleep(secs)

    async def close_async(self) -> None:
        await self._http.aclose()


def _no_answer(reason: str) -> stripe.APIConnectionError:
    error: stripe.APIConnectionError = stripe.APIConnectionError(reason, should_retry=True)  # type: ignore[no-untyped-call]  # theirs is not annotated
    return error


class StripeGateway:
    """One a process and event loop. Every call raises a StripeError."""

    def __init__(
        self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        assert settings.stripe_secret_key is not None
        stripe.enable_telemetry = False
        self._http = httpx.AsyncClient(
            transport=transport, timeout=httpx.Timeout(20, connect=5), follow_redirects=False
        )
        options: dict[str, Any] = {}
        if settings.stripe_api_url is not None:
            options["base_addresses"] = {"api": settings.stripe_api_url}
        client = stripe.StripeClient(
            settings.stripe_secret_key.get_secret_value(),
            stripe_version=API_VERSION,
            max_network_retries=2,
            http_client=_Transport(self._http),
            **options,
        )
        self.v1 = client.v1
        self._prices: dict[str, Price] = {}

    async def close(self) -> None:
        await self._http.aclose()

    async def find_price(self, lookup_key: str) -> Price | None:
        """The active price of a pack; remembered until `forget_prices`."""
        if lookup_key not in self._prices:
            params: Any = {"lookup_keys": [lookup_key], "active": True, "limit": 1}
            found = await call(self.v1.prices.list_async, params)
            for price in found["data"]:
                self._prices[lookup_key] = _as(price, Price)
        return self._prices.get(lookup_key)

    def forget_prices(self) -> None:
        self._prices.clear()

    async def create_customer(self, params: Mapping[str, Any], *, key: str) -> str:
        made = await call(self.v1.customers.create_async, dict(params), {"idempotency_key": key})
        customer_id: str = made["id"]
        return customer_id

    async def create_session(self, params: Mapping[str, Any], *, key: str) -> Session:
        return _as(
            await call(
                self.v1.checkout.sessions.create_async, dict(params), {"idempotency_key": key}
            ),
            Session,
        )

    async def get_session(self, session_id: str) -> Session:
        """With its line items."""
        found = await call(
            self.v1.checkout.sessions.retrieve_async, session_id, {"expand": ["line_items"]}
        )
        if not (found.get("line_items") or {}).get("data"):
            found["line_items"] = await call(
                self.v1.checkout.sessions.line_items.list_async, session_id, {"limit": 10}
            )
        return _as(found, Session)

    async def expire_session(self, session_id: str) -> Session:
        return _as(await call(self.v1.checkout.sessions.expire_async, session_id), Session)

    async def list_sessions(self, params: Mapping[str, Any]) -> AsyncIterator[Session]:
        async for found in pages(self.v1.checkout.sessions.list_async, params):
            yield _as(found, Session)

    async def get_payment_intent(self, payment_intent: str) -> PaymentIntent:
        return _as(
            await call(self.v1.payment_intents.retrieve_async, payment_intent), PaymentIntent
        )

    async def get_charge(self, charge_id: str) -> Charge:
        return _as(await call(self.v1.charges.retrieve_async, charge_id), Charge)

    async def get_invoice(self, invoice_id: str) -> Invoice:
        return _as(await call(self.v1.invoices.retrieve_async, invoice_id), Invoice)

    async def list_refunds(self, payment_intent: str) -> list[StripeRefund]:
        params = {"payment_intent": payment_intent}
        return [_as(each, StripeRefund) async for each in pages(self.v1.refunds.list_async, params)]

    async def list_disputes(self, payment_intent: str) -> list[StripeDispute]:
        params = {"payment_intent": payment_intent}
        return [
            _as(each, StripeDispute) async for each in pages(self.v1.disputes.list_async, params)
        ]

    async def create_refund(self, params: Mapping[str, Any], *, key: str) -> StripeRefund:
        made = await call(self.v1.refunds.create_async, dict(params), {"idempotency_key": key})
        return _as(made, StripeRefund)

    async def create_portal_url(self, customer_id: str, *, return_url: str) -> str:
        params: Any = {"customer": customer_id, "return_url": return_url}
        url: str = (await call(self.v1.billing_portal.sessions.create_async, params))["url"]
        return url

    async def list_events(self, params: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async for event in pages(self.v1.events.list_async, params):
            yield event


async def pages(
    function: Callable[..., Awaitable[Any]], params: Mapping[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """All of a list, newest first, page by page."""
    after: dict[str, Any] = {}
    while True:
        page = await call(function, {"limit": _PAGE, **params, **after})
        for item in page["data"]:
            yield item
        if not page.get("has_more") or not page["data"]:
            return
        after = {"starting_after": page["data"][-1]["id"]}


async def call(function: Callable[..., Awaitable[Any]], *args: Any) -> dict[str, Any]:
    """One call; 429 is tried again with growing pauses, which the client does not do itself."""
    for attempt in range(1, _RATE_LIMIT_ATTEMPTS + 1):
        try:
            answer = await function(*args)
        except stripe.RateLimitError as error:
            if attempt == _RATE_LIMIT_ATTEMPTS:
                raise StripeUnreachableError("rate_limited") from error
            await asyncio.sleep(0.2 * 2**attempt * random.uniform(0.5, 1))  # noqa: S311  jitter only
        except stripe.StripeError as error:
            raise _translated(error) from error
        else:
            found: dict[str, Any] = answer.to_dict(for_json=True)
            return found
    raise AssertionError


def _translated(error: stripe.StripeError) -> StripeError:
    log.warning(
        "stripe.error",
        error=type(error).__name__,
        code=error.code,
        http_status=error.http_status,
        stripe_request=error.request_id,
    )
    ours: StripeError = StripeServerError("server_error")
    if isinstance(error, stripe.APIConnectionError):
        ours = StripeUnreachableError("no_answer")
    elif error.http_status == httpx.codes.CONFLICT:
        ours = StripeUnreachableError("busy")
    elif isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        ours = StripeCredentialsError("credentials")
    elif isinstance(error, stripe.IdempotencyError):
        ours = StripeKeyReusedError("key_reused")
    elif isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        ours = StripeRefusedError(error.code or "invalid_request", getattr(error, "param", None))
    return ours


def _as(value: Mapping[str, Any], cls: type[Struct]) -> Struct:
    """The fields we read. An expanded object is reduced to its id where we want the id."""
    flat = {
        name: field["id"]
        if name in _REFERENCES and isinstance(field, dict) and "id" in field
        else field
        for name, field in value.items()
        if name in cls.__struct_fields__
    }
    defaults = {name for name, field in flat.items() if field is None and name in _MAPPINGS}
    return msgspec.convert({k: v for k, v in flat.items() if k not in defaults}, cls)


_REFERENCES: Final = frozenset(
    {"payment_intent", "customer", "invoice", "latest_charge", "product"}
)
_MAPPINGS: Final = frozenset({"metadata", "line_items"})
