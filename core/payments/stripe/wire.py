"""Stripe on the wire: the official library over our own transport, and its errors as ours.

Plain dictionaries come out of here; StripeObject is no dict and does not leave this module.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import httpx
import msgspec
import stripe
import structlog

from core.payments.provider import (
    PaymentProviderError,
    ProviderAnswerError,
    ProviderCredentialsError,
    ProviderKeyReusedError,
    ProviderNotConfiguredError,
    ProviderRefusedError,
    ProviderServerError,
    ProviderUnavailableError,
    Refused,
)
from core.settings import Settings

log = structlog.get_logger()

# Pinned here and at the webhook endpoint: an upgrade of the library is a new endpoint.
API_VERSION: Final = "2026-10-28.endive"
_FIRST_PAUSE_SECONDS: Final = 0.4
_PAGE_SIZE: Final = 100
_KEY_REFUSED: Final = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})
# The key is right and has not got the permission.
MAY_NOT: Final = "permission"
# https://docs.stripe.com/customer-management/integrate-customer-portal: no code tells this apart.
_NO_PORTAL: Final = "No configuration provided"
_INACTIVE: Final = "price specified is inactive"


class Patience(msgspec.Struct, frozen=True):
    """How long a call is tried on for: with the same key, so that the first one is found."""

    try_seconds: float
    total_seconds: float
    tries: int


# Somebody waits, and nobody else would try again.
CLICK: Final = Patience(try_seconds=5, total_seconds=11, tries=3)
# The task is what tries again: a look that waits holds a place that others need.
LOOK: Final = Patience(try_seconds=5, total_seconds=5, tries=1)
# A script, whose operator tries again.
ONCE: Final = Patience(try_seconds=20, total_seconds=30, tries=1)


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
        max_network_retries=0,  # `call` decides
        http_client=_Transport(http),
        **options,
    )


async def call(
    function: Callable[..., Awaitable[Any]], *args: Any, patience: Patience = ONCE
) -> dict[str, Any]:
    """One call, tried on for as `patience` says. Raises: PaymentProviderError.

    A call that creates something must bring its idempotency key where it is tried again.
    """
    try:
        async with asyncio.timeout(patience.total_seconds):
            answer = await _try_on(function, args, patience)
    except TimeoutError as error:
        raise ProviderUnavailableError("no_answer") from error
    except stripe.StripeError as error:
        raise _translated(error) from error
    found: dict[str, Any] = answer.to_dict(for_json=True)
    return found


async def _try_on(
    function: Callable[..., Awaitable[Any]], args: tuple[Any, ...], patience: Patience
) -> Any:
    """Raises: stripe.StripeError, the last one."""
    failures = busy = 0
    while True:
        try:
            return await function(*args)
        except stripe.StripeError as error:
            if error.http_status == httpx.codes.CONFLICT and patience.tries > 1:
                # The first call under this key still runs: its answer is ours as well.
                busy += 1
            else:
                failures += 1
                if failures >= patience.tries or not _may_pass(error):
                    raise
            log.warning("stripe.call_repeated", error=type(error).__name__, failures=failures)
        await asyncio.sleep(_pause_seconds(failures + min(busy, 2)))


def _may_pass(error: stripe.StripeError) -> bool:
    if (error.headers or {}).get("stripe-should-retry") == "false":
        return False
    status = error.http_status or 0
    return (
        isinstance(error, stripe.APIConnectionError | stripe.RateLimitError)
        or status >= httpx.codes.INTERNAL_SERVER_ERROR
    )


def _pause_seconds(failures: int) -> float:
    doubled = _FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1)
    return doubled * random.uniform(0.5, 1)  # noqa: S311  jitter


async def pages(
    function: Callable[..., Awaitable[Any]],
    params: Mapping[str, Any],
    *,
    patience: Patience = ONCE,
) -> AsyncIterator[dict[str, Any]]:
    """All of a list, newest first, page by page. Raises: PaymentProviderError."""
    after: dict[str, Any] = {}
    while True:
        page = await call(function, {"limit": _PAGE_SIZE, **params, **after}, patience=patience)
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
    elif isinstance(error, stripe.RateLimitError):
        ours = ProviderUnavailableError("rate_limited")
    elif error.http_status == httpx.codes.CONFLICT:
        ours = ProviderUnavailableError("busy")
    elif error.http_status in _KEY_REFUSED:
        log.critical("stripe.credentials", hint="STRIPE_SECRET_KEY is wrong or may not do this")
        is_known = error.http_status == httpx.codes.FORBIDDEN
        ours = ProviderCredentialsError(MAY_NOT if is_known else "credentials")
    elif isinstance(error, stripe.IdempotencyError):
        ours = ProviderKeyReusedError("key_reused")
    elif isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        ours = _refusal(error)
    elif httpx.codes.is_client_error(error.http_status or 0):
        # Not in Stripe's words: a proxy's page, or an address that nobody serves.
        ours = ProviderAnswerError("no_stripe_answer")
    return ours


def _refusal(error: stripe.InvalidRequestError | stripe.CardError) -> ProviderRefusedError:
    param = str(getattr(error, "param", None) or "")
    reason = error.code or "invalid_request"
    if not param and _NO_PORTAL in str(error):
        return ProviderNotConfiguredError("portal_not_configured")
    if not param and _INACTIVE in str(error):
        return ProviderRefusedError(reason, Refused.PRICE)
    return ProviderRefusedError(reason, _refused(error.code, param))


def _refused(code: str | None, param: str) -> Refused | None:
    # What is refused about a price is said in words only, where it is archived: there is no code.
    if param.startswith("line_items") and (code == "resource_missing" or "price" in param):
        return Refused.PRICE
    if param == "expires_at":
        return Refused.EXPIRY
    if code != "resource_missing":
        return None
    return Refused.CUSTOMER if param == "customer" else Refused.SUBJECT
