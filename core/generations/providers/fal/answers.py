"""Reads fal's answers: which of its failure shapes, whose fault, and whether to try again.

Shapes: a model's list `{"detail": [{"type", "msg", "loc"}]}`, the infrastructure's flat
`{"detail": "...", "error_type": "..."}`, and HTML of the ingress, which has no request id.
Branches on types and codes, never on message text.
Source: https://docs.fal.ai/errors
"""

import email.utils
import time
from decimal import Decimal, InvalidOperation
from typing import Any

import httpx
import msgspec

from core.generations.providers.types import (
    AccountEffect,
    Ambiguous,
    Failure,
    FailureCause,
    NotAccepted,
    NotAcceptedReason,
    Unreachable,
)

REQUEST_ID = "x-fal-request-id"
_UNITS = "x-fal-billable-units"
_DETAIL_CHARS_MAX = 1000
_RETRY_AFTER_SECONDS_MAX = 3600.0
# What the ingress answers when it did not get an answer from the gateway behind it; the official
# Python client submits again after these, and after nothing else of the kind.
_INGRESS_STATUSES = frozenset({502, 503, 504})
# The request was not taken this time, for no fault of its own (the official client retries them).
_TRY_AGAIN_STATUSES = frozenset({408, 409, 421, 425})
# What is asked for was read and refused. Other 4xx are about the path, not about the request.
_INPUT_STATUSES = frozenset({400, 413, 415, 422})
_ACCOUNT_STATUSES = frozenset({401, 402, 403})


class Reply(msgspec.Struct, frozen=True):
    """A whole answer. `data` is its JSON, or None."""

    status: int
    headers: httpx.Headers
    content: bytes
    data: Any = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_json(self) -> bool:
        """True for an answer of fal itself; proxies in between answer in HTML."""
        return isinstance(self.data, dict)


def read_json(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return None


class ErrorFacts(msgspec.Struct, frozen=True):
    """Type and text of a failed answer."""

    error_type: str | None
    detail: str | None


class ErrorClass(msgspec.Struct, frozen=True):
    """What a type of error means for the generation."""

    cause: FailureCause
    is_retryable: bool = False


_PASSING = ErrorClass(FailureCause.PROVIDER, is_retryable=True)
_BAD_INPUT = ErrorClass(FailureCause.INPUT)
_BAD_PARAMS = ErrorClass(FailureCause.PARAMS)
_CANCELLED = ErrorClass(FailureCause.CANCELLED)

# The table of section "Error types" on fal's errors page, and of its request errors.
_ERROR_CLASSES = {
    "internal_server_error": _PASSING,
    "generation_timeout": _PASSING,
    "downstream_service_error": _PASSING,
    "downstream_service_unavailable": _PASSING,
    "content_policy_violation": ErrorClass(FailureCause.CONTENT),
    "no_media_generated": ErrorClass(FailureCause.NO_IMAGE),
    "image_too_small": ErrorClass(FailureCause.PHOTO_TOO_SMALL),
    "image_too_large": ErrorClass(FailureCause.PHOTO_TOO_LARGE),
    "file_too_large": ErrorClass(FailureCause.PHOTO_FILE_TOO_LARGE),
    "unsupported_image_format": ErrorClass(FailureCause.PHOTO_FORMAT),
    "image_load_error": ErrorClass(FailureCause.PHOTO_UNREADABLE),
    # Its own download of our URL failed: no fault of the photo, and it may pass.
    "file_download_error": ErrorClass(FailureCause.PHOTO_NOT_FETCHED, is_retryable=True),
    "face_detection_error": ErrorClass(FailureCause.FACE),
    "feature_not_supported": _BAD_PARAMS,
    "greater_than": _BAD_PARAMS,
    "greater_than_equal": _BAD_PARAMS,
    "less_than": _BAD_PARAMS,
    "less_than_equal": _BAD_PARAMS,
    "multiple_of": _BAD_PARAMS,
    "sequence_too_short": _BAD_PARAMS,
    "sequence_too_long": _BAD_PARAMS,
    "one_of": _BAD_PARAMS,
    "enum": _BAD_PARAMS,
    "literal_error": _BAD_PARAMS,
    "string_too_short": _BAD_PARAMS,
    "string_too_long": _BAD_PARAMS,
    "request_timeout": _PASSING,
    "startup_timeout": _PASSING,
    "runner_scheduling_failure": _PASSING,
    "runner_connection_timeout": _PASSING,
    "runner_disconnected": _PASSING,
    "runner_connection_refused": _PASSING,
    "runner_connection_error": _PASSING,
    "runner_incomplete_response": _PASSING,
    "runner_server_error": _PASSING,
    "internal_error": _PASSING,
    "client_disconnected": _CANCELLED,
    "client_cancelled": _CANCELLED,
    "concurrent_requests_limit": _PASSING,
    "bad_request": _BAD_INPUT,
}


def read_error(reply: Reply) -> ErrorFacts:
    """Type and text of a failure, from whichever shape it has."""
    data = reply.data
    header_type = reply.headers.get("x-fal-error-type")
    if not isinstance(data, dict):
        return ErrorFacts(header_type, reply.content[:200].decode("utf-8", "replace") or None)
    listed = data.get("detail")
    if isinstance(listed, list):
        items = [item for item in listed if isinstance(item, dict)]
        types = [item["type"] for item in items if isinstance(item.get("type"), str)]
        # A refusal of the content weighs more than whatever else is wrong with the input.
        policy = "content_policy_violation"
        chosen = policy if policy in types else next(iter(types), header_type)
        text = "; ".join(_item_text(item) for item in items)
        return ErrorFacts(chosen, text[:_DETAIL_CHARS_MAX] or None)
    flat_type = data.get("error_type")
    detail = listed if isinstance(listed, str) else data.get("status") or data.get("error")
    return ErrorFacts(
        flat_type if isinstance(flat_type, str) and flat_type else header_type,
        detail[:_DETAIL_CHARS_MAX] if isinstance(detail, str) else None,
    )


def _item_text(item: dict[str, Any]) -> str:
    location = item.get("loc")
    where = ".".join(str(part) for part in location) if isinstance(location, list) else ""
    return f"{where}: {item.get('msg', item.get('type', ''))}".removeprefix(": ")


def billable_units(reply: Reply) -> Decimal | None:
    """Units of the endpoint's price, as the header says; None when it does not."""
    raw = reply.headers.get(_UNITS)
    if raw is None:
        return None
    try:
        units = Decimal(raw.strip())
    except InvalidOperation:
        return None
    return units if units.is_finite() and units >= 0 else None


def retry_after_seconds(reply: Reply) -> float | None:
    """`Retry-After` as seconds from now, at most an hour; a date counts by the sender's clock."""
    raw = reply.headers.get("retry-after", "").strip()
    if not raw:
        return None
    try:
        seconds = float(raw)
    except ValueError:
        until = _timestamp(raw)
        if until is None:
            return None
        seconds = until - (_timestamp(reply.headers.get("date", "")) or time.time())
    if not 0 <= seconds < float("inf"):
        return None
    return min(seconds, _RETRY_AFTER_SECONDS_MAX)


def _timestamp(http_date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(http_date).timestamp()
    except ValueError:
        return None


def is_ingress_page(reply: Reply) -> bool:
    """nginx in front of fal: it did not reach the gateway, so nothing was accepted."""
    return (
        reply.status in _INGRESS_STATUSES
        and REQUEST_ID not in reply.headers
        and b"nginx" in reply.content[:4096]
    )


class _Refusal(msgspec.Struct, frozen=True):
    reason: NotAcceptedReason
    account_effect: AccountEffect = "none"
    is_final: bool = False


def _refusal_of(reply: Reply) -> _Refusal | None:
    match reply.status:
        case 401:
            found = _Refusal(NotAcceptedReason.UNAUTHORIZED, "key_refused")
        case 402 | 403:
            found = _Refusal(NotAcceptedReason.LOCKED, "locked")
        case 429:
            found = _Refusal(NotAcceptedReason.RATE_LIMITED, "cooldown")
        case status if status in _TRY_AGAIN_STATUSES:
            found = _Refusal(NotAcceptedReason.TRY_AGAIN)
        case status if 300 <= status < 400:
            found = _Refusal(NotAcceptedReason.REDIRECTED)
        case status if status in _INPUT_STATUSES:
            found = _Refusal(NotAcceptedReason.REFUSED, is_final=True)
        case status if 400 <= status < 499:
            found = _Refusal(NotAcceptedReason.MODEL_MISSING)
        case _ if is_ingress_page(reply):
            found = _Refusal(NotAcceptedReason.INGRESS)
        case _:
            return None
    return found


def submit_refused(reply: Reply) -> NotAccepted | Ambiguous:
    """Sorts an answer to a submit that is not a success."""
    error = read_error(reply)
    refusal = _refusal_of(reply)
    if refusal is None:
        words = f"HTTP {reply.status} {error.error_type or ''}".rstrip()
        return Ambiguous(error=words, http_status=reply.status)
    error_class = _ERROR_CLASSES.get(error.error_type or "", _BAD_INPUT)
    return NotAccepted(
        reason=refusal.reason,
        http_status=reply.status,
        error_type=error.error_type,
        detail=error.detail,
        retry_after_seconds=retry_after_seconds(reply),
        account_effect=refusal.account_effect,
        is_final=refusal.is_final and not error_class.is_retryable,
        cause=error_class.cause,
    )


def unreachable(reply: Reply) -> Unreachable:
    """An answer that says nothing about the request: of the ingress, or about our key."""
    error = read_error(reply)
    return Unreachable(
        detail=f"HTTP {reply.status} {error.error_type or ''}".rstrip(),
        http_status=reply.status,
        retry_after_seconds=retry_after_seconds(reply),
        is_limited=reply.status == 429,
    )


def is_conclusive(reply: Reply) -> bool:
    """True if a failed answer of the result URL is the request's own end, without a second source.

    A list of errors is a runner's answer, and runners state billable units in theirs; what the
    gateway says itself is flat or a page.
    """
    if not reply.is_json:
        return False
    if is_own_start_timeout(reply) or billable_units(reply) is not None:
        return True
    if is_about_path(reply):
        return False
    if isinstance(reply.data.get("detail"), list):
        return True
    if reply.status >= 500:
        return False
    return reply.status != 400 or read_error(reply).error_type is not None


def is_unknown(reply: Reply) -> bool:
    """True for a 404 that no model gave: fal does not know the request, or the path."""
    return (
        reply.status == 404
        and reply.is_json
        and not isinstance(reply.data.get("detail"), list)
        and read_error(reply).error_type is None
    )


def is_gone(reply: Reply) -> bool:
    """Of an unknown one: fal looked for the request; an app answers so for a path, with a bill."""
    return billable_units(reply) is None or reply.data.get("status") == "NOT_FOUND"


def is_about_path(reply: Reply) -> bool:
    """True for an answer that no model gave: about our key or rate, or from the ingress."""
    return (
        not reply.is_json
        or reply.status in _ACCOUNT_STATUSES
        or reply.status in _TRY_AGAIN_STATUSES
        or reply.status == 429
        or 300 <= reply.status < 400
    )


def failure(reply: Reply) -> Failure:
    """The end of a request that failed, from the answer of its result URL."""
    error = read_error(reply)
    error_type = error.error_type
    error_class = _ERROR_CLASSES.get(error_type or "") or _class_of_status(reply.status)
    if reply.status == 499:
        error_class = _CANCELLED
    elif is_own_start_timeout(reply):
        error_class = ErrorClass(FailureCause.START_TIMEOUT)
    is_cancelled = error_class.cause is FailureCause.CANCELLED
    return Failure(
        http_status=reply.status,
        error_type=error_type or ("client_cancelled" if is_cancelled else None),
        detail=error.detail,
        cause=error_class.cause,
        is_retryable=error_class.is_retryable,
        billable_units=billable_units(reply),
    )


def is_own_start_timeout(reply: Reply) -> bool:
    """Our X-Fal-Request-Timeout passed before a runner took the request: it surely never ran."""
    return (
        reply.status == 504
        and reply.headers.get("x-fal-request-timeout-type", "").strip().lower() == "user"
    )


def _class_of_status(status: int) -> ErrorClass:
    if status >= 500 or status == 429 or status in _TRY_AGAIN_STATUSES:
        return _PASSING
    return _BAD_INPUT
