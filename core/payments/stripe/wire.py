"""Stripe on the wire: the official library over our own transport, and its errors as ours.

Plain dictionaries come out of here; StripeObject is no dict and does not leave this module.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import httpx
import stripe
import structlog

from core.payments.provider import (
    Missing,
    PaymentProviderError,
    ProviderCredentialsError,
    ProviderKeyReusedError,
    ProviderRefusedError,
    ProviderServerError,
    ProviderUnavailableError,
)
from core.retries import retrying
from core.settings import Settings

log = structlog.get_logger()

# Pinned here and at the webhook endpoint: an upgrade of the library is a new endpoint.
API_VERSION: Final = "2026-10-28.endive"
_RETRYING: Final = retrying(attempts=4, total_seconds=15, first_pause_seconds=0.3)
_PAGE_SIZE: Final = 100


class _Transport(stripe.HTTPClient):
    """The library's own httpx transport fails with newer httpx; this is all that it needs."""

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


def library_client(settings: Settings, http: httpx.AsyncClient) -> stripe.StripeClient:
    """The official client. One a process and event loop."""
    assert settings.stripe_secret_key is not None
    stripe.enable_telemetry = False
    options: dict[str, Any] = {}
    if settings.stripe_api_url is not None:
        options["base_addresses"] = {"api": settings.stripe_api_url}
    return stripe.StripeClient(
        settings.stripe_secret_key.get_secret_value(),
        stripe_version=API_VERSION,
        max_network_retries=2,
        http_client=_Transport(http),
        **options,
    )


async def call(function: Callable[..., Awaitable[Any]], *args: Any) -> dict[str, Any]:
    """One call. The library repeats what got no answer or a 5xx, with the same key; 429 is repeated
    here, which the library does not do.

    Raises: PaymentProviderError.
    """
    try:
        answer = await _RETRYING(stripe.RateLimitError, function, *args)
    except stripe.RateLimitError as error:
        raise ProviderUnavailableError("rate_limited") from error
    except stripe.StripeError as error:
        raise _translated(error) from error
    found: dict[str, Any] = answer.to_dict(for_json=True)
    return found


async def pages(
    function: Callable[..., Awaitable[Any]], params: Mapping[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """All of a list, newest first, page by page. Raises: PaymentProviderError."""
    after: dict[str, Any] = {}
    while True:
        page = await call(function, {"limit": _PAGE_SIZE, **params, **after})
        for item in page["data"]:
            yield item
        if not page.get("has_more") or not page["data"]:
            return
        after = {"starting_after": page["data"][-1]["id"]}


def _translated(error: stripe.StripeError) -> PaymentProviderError:
    log.warning(
        "stripe.error",
        error=type(error).__name__,
        code=error.code,
        http_status=error.http_status,
        stripe_request=error.request_id,
    )
    ours: PaymentProviderError = ProviderServerError("server_error")
    if isinstance(error, stripe.APIConnectionError):
        ours = ProviderUnavailableError("no_answer")
    elif error.http_status == httpx.codes.CONFLICT:
        ours = ProviderUnavailableError("busy")
    elif isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        log.critical("stripe.credentials", hint="STRIPE_SECRET_KEY is wrong or may not do this")
        ours = ProviderCredentialsError("credentials")
    elif isinstance(error, stripe.IdempotencyError):
        ours = ProviderKeyReusedError("key_reused")
    elif isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        param = getattr(error, "param", None)
        ours = ProviderRefusedError(error.code or "invalid_request", _missing(error.code, param))
    return ours


def _missing(code: str | None, param: str | None) -> Missing | None:
    if code != "resource_missing":
        return None
    if param == "customer":
        return Missing.CUSTOMER
    if param is not None and param.startswith("line_items"):
        return Missing.PRICE
    return Missing.SUBJECT
