"""What the provider answered, reduced to the cases that the worker decides by.

`detail` is the vendor's own text: for our records, never for a user.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Literal

import msgspec

from core.errors import FailureKind, PermanentError, RetryableError

# What the answer to a submit says: of the rate of its account, of the account, of its key.
AccountEffect = Literal["none", "cooldown", "locked", "key_refused"]


class FailureCause(StrEnum):
    """What caused a failure, as far as the ending of the generation depends on it."""

    PROVIDER = "provider"
    INPUT = "input"
    """The photo or a parameter was refused, and nothing says which."""
    PHOTO_TOO_SMALL = "photo_too_small"
    PHOTO_TOO_LARGE = "photo_too_large"
    """Its sides."""
    PHOTO_FILE_TOO_LARGE = "photo_file_too_large"
    """Its bytes."""
    PHOTO_FORMAT = "photo_format"
    PHOTO_UNREADABLE = "photo_unreadable"
    PHOTO_NOT_FETCHED = "photo_not_fetched"
    """Our own URL of it did not answer the provider."""
    FACE = "face"
    PARAMS = "params"
    CONTENT = "content"
    """The provider's content policy refused the request."""
    NO_IMAGE = "no_image"
    CANCELLED = "cancelled"
    START_TIMEOUT = "start_timeout"
    """Our own start deadline passed, so it never ran."""


# --- submit --------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The provider took the request. The URLs are on the configured host."""

    request_id: str
    status_url: str
    response_url: str
    cancel_url: str


class NotAcceptedReason(StrEnum):
    # Between the provider and us.
    UNREACHABLE = "unreachable"
    RATE_LIMITED = "rate_limited"
    INGRESS = "ingress"
    TRY_AGAIN = "try_again"
    REDIRECTED = "redirected"
    # The account.
    UNAUTHORIZED = "unauthorized"
    LOCKED = "locked"
    # The request.
    REFUSED = "refused"
    MODEL_MISSING = "model_missing"
    """Nothing answers at the model's path: it was removed, or the edge is being deployed."""
    # No POST was made.
    ACCOUNT_UNHEALTHY = "account_unhealthy"
    OUT_OF_TIME = "out_of_time"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    PROVIDER_STORAGE_UNAVAILABLE = "provider_storage_unavailable"


class NotAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Surely not accepted: nothing runs and nothing is paid.

    `is_final`: the same input would be refused again, for its `cause`.
    """

    reason: NotAcceptedReason
    http_status: int | None
    error_type: str | None
    detail: str | None
    retry_after_seconds: float | None
    account_effect: AccountEffect
    is_final: bool
    cause: FailureCause = FailureCause.INPUT


class Ambiguous(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The request may have been accepted, and its id is not known."""

    error: str
    http_status: int | None = None


SubmitOutcome = Accepted | NotAccepted | Ambiguous


# --- status --------------------------------------------------------------------------------------


class Unreachable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """No answer about the request itself: poll again. `detail` is for our records.

    `is_limited`: the provider wants to be polled less often.
    """

    detail: str
    http_status: int | None = None
    retry_after_seconds: float | None = None
    is_limited: bool = False


class Unknown(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The provider answers, and does not know the request: one answer may be a replica that lags.

    `is_gone`: it knew where to look; otherwise nothing answers at the request's path, which does
    not say that the request is not there.
    """

    is_gone: bool = True


class InQueue(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`position`: requests ahead, if the provider states it."""

    position: int | None = None


class InProgress(msgspec.Struct, frozen=True, tag=True):
    """A model works on it."""


class Completed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It ended, with success or failure: only the result's HTTP code tells which."""

    error: str | None = None
    error_type: str | None = None


StatusOutcome = InQueue | InProgress | Completed | Unknown | Unreachable


# --- result --------------------------------------------------------------------------------------


class OutputImage(msgspec.Struct, frozen=True, kw_only=True):
    """The first image of an output. Everything but `url` is the provider's claim, or None."""

    url: str
    content_type: str | None = None
    width: int | None = None
    height: int | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What the model made: one image, or none. Units: `billable_units` in the endpoint's unit.

    `is_flagged`: a safety check of the provider objects to it.
    """

    image: OutputImage | None
    is_flagged: bool
    billable_units: Decimal | None
    http_status: int = 200


class StillRunning(msgspec.Struct, frozen=True, tag=True):
    """There is no result yet."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The request ended without output, surely. `is_retryable`: another submit may succeed."""

    http_status: int
    error_type: str | None
    detail: str | None
    cause: FailureCause
    is_retryable: bool = False
    billable_units: Decimal | None = None


ResultOutcome = Output | StillRunning | Failure | Unknown | Unreachable


# --- cancel --------------------------------------------------------------------------------------


class CancelAccepted(msgspec.Struct, frozen=True, tag=True):
    """It may finish all the same (and bill), so it is polled until it is completed."""


class AlreadyCompleted(msgspec.Struct, frozen=True, tag=True):
    """Too late."""


CancelOutcome = CancelAccepted | AlreadyCompleted | Unknown | Unreachable


# --- files ---------------------------------------------------------------------------------------


class OutputLoss(StrEnum):
    """What stands in the place of an output's file."""

    MISSING = "output_missing"
    """Nothing: 404, 410 or an empty file."""
    REDIRECTED = "redirected"
    FILE_REFUSED = "file_refused"


class OutputMissingError(RetryableError):
    """The output file is not there, or something else answers in its place.

    Usual within seconds of the end; when it stays so, the output is lost.
    """

    def __init__(self, text: str, loss: OutputLoss = OutputLoss.MISSING) -> None:
        super().__init__(text, kind=FailureKind.ABSENT)
        self.loss = loss


class OutputRefusal(StrEnum):
    URL_NOT_ALLOWED = "url_not_allowed"
    BAD_DATA_URI = "bad_data_uri"
    TOO_LARGE = "too_large"


class OutputRefusedError(PermanentError):
    """The output may not or cannot be fetched."""

    def __init__(self, reason: OutputRefusal) -> None:
        super().__init__(reason)
        self.reason = reason


class OutputTooLargeError(OutputRefusedError):
    """The output is larger than `max_bytes`."""

    def __init__(self) -> None:
        super().__init__(OutputRefusal.TOO_LARGE)


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
