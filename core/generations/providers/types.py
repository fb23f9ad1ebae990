"""What the provider answered, sorted into the few things that the worker decides by.

`detail` is the vendor's own text: for our records, never for a user.
"""

from decimal import Decimal
from typing import Any, Literal

import msgspec

from core.errors import PermanentError, RetryableError

AccountEffect = Literal["none", "cooldown", "breaker"]


# --- submit --------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The provider took the request. The URLs are on the configured host."""

    request_id: str
    status_url: str
    response_url: str
    cancel_url: str


class NotAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Surely not accepted: nothing runs and nothing is paid.

    `reason`: unreachable, rate_limited, ingress, try_again, redirected (the path failed);
    unauthorized, locked (the account); refused (`is_final`: the same input would be refused again).
    """

    reason: str
    http_status: int | None
    error_type: str | None
    detail: str | None
    retry_after_seconds: float | None
    account_effect: AccountEffect
    is_final: bool


class Ambiguous(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The request may have been accepted, and its id is not known."""

    error: str
    http_status: int | None = None


SubmitOutcome = Accepted | NotAccepted | Ambiguous


# --- looking at it -------------------------------------------------------------------------------


class Unreachable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """No answer about the request itself: ask again."""

    reason: str
    http_status: int | None = None
    retry_after_seconds: float | None = None
    account_effect: AccountEffect = "none"


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """The provider answers, and does not know the request."""


class InQueue(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`position`: requests ahead, as far as the provider tells."""

    position: int | None = None


class InProgress(msgspec.Struct, frozen=True, tag=True):
    """A model works on it."""


class Completed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It ended, well or badly: only the result's HTTP code tells. The fields are hints."""

    error: str | None = None
    error_type: str | None = None


StatusOutcome = InQueue | InProgress | Completed | Unknown | Unreachable


# --- result --------------------------------------------------------------------------------------


class Output(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The model's own output. Units: `billable_units` in the endpoint's unit of price."""

    payload: dict[str, Any]
    billable_units: Decimal | None
    http_status: int = 200


class StillRunning(msgspec.Struct, frozen=True, tag=True):
    """There is no result yet."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The request ended without output, surely.

    `is_retryable`: another submit may succeed. `is_refusal`: the input or its content was refused.
    `is_start_timeout`: our own start deadline passed, so it never ran. `reason` is in our words.
    """

    http_status: int
    error_type: str | None
    detail: str | None
    reason: str
    is_retryable: bool = False
    is_refusal: bool = False
    is_cancelled: bool = False
    is_start_timeout: bool = False
    billable_units: Decimal | None = None
    account_effect: AccountEffect = "none"


ResultOutcome = Output | StillRunning | Failure | Unreachable


# --- cancel --------------------------------------------------------------------------------------


class CancelAccepted(msgspec.Struct, frozen=True, tag=True):
    """Heard. It may finish all the same (and bill): look until it is completed."""


class AlreadyCompleted(msgspec.Struct, frozen=True, tag=True):
    """Too late."""


CancelOutcome = CancelAccepted | AlreadyCompleted | Unknown | Unreachable


# --- files ---------------------------------------------------------------------------------------


class OutputMissingError(RetryableError):
    """The output file is not there (404, 410) or empty.

    Usual within seconds of the end; when it stays so, the output is lost.
    """


class OutputRefusedError(PermanentError):
    """The output may not or cannot be fetched.

    `reason`: url_not_allowed, redirected, file_refused, bad_data_uri, too_large.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OutputTooLargeError(OutputRefusedError):
    """The output is larger than `max_bytes`."""

    def __init__(self) -> None:
        super().__init__("too_large")


class UploadError(RetryableError):
    """The provider's storage did not take an input. `account_effect` as for a submit."""

    def __init__(
        self,
        reason: str,
        *,
        account_effect: AccountEffect = "none",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason, retry_after_seconds=retry_after_seconds)
        self.account_effect = account_effect
