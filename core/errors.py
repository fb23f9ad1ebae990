"""The domain's errors. They carry typed fields and know no HTTP; api/problems.py maps each class.

SQL functions raise `errcode = 'JSnnn', detail = <json>`; `from_database` turns that, or the name
of a violated constraint, into one of these classes. Message text is never matched.
"""

from typing import Any, ClassVar

import msgspec
import psycopg


class DomainError(Exception):
    """Base of all errors that a caller can do something about."""

    sqlstate: ClassVar[str | None] = None

    def __init__(self, **fields: Any) -> None:
        super().__init__(type(self).__name__, fields)
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as cls(*args); ours take keywords and cross process borders.
        return _rebuild, (type(self), self.fields)


def _rebuild(cls: type[DomainError], fields: dict[str, Any]) -> DomainError:
    return cls(**fields)


class NoIdentityError(DomainError):
    """The transaction carries no verified user."""

    sqlstate = "JS401"


class InsufficientCreditsError(DomainError):
    """Fields: required, available, debt (whole credits)."""

    sqlstate = "JS402"


class NotAllowedError(DomainError):
    """Fields: reason."""

    sqlstate = "JS403"


class NotFoundError(DomainError):
    """Fields: kind. Also what another user's row looks like."""

    sqlstate = "JS404"


class ConflictError(DomainError):
    """The thing is not in a state that allows this. Fields: reason, and what the state is."""

    sqlstate = "JS409"


class GoneError(DomainError):
    """It existed and has expired. Fields: kind."""

    sqlstate = "JS410"


class InvalidInputError(DomainError):
    """Fields: field, reason; optionally `errors`, a list of {pointer, detail}."""

    sqlstate = "JS422"


class QuotaError(DomainError):
    """A stated limit is reached. Fields: reason, limit."""

    sqlstate = "JS429"


class LeaseLostError(DomainError):
    """Another worker holds this now: stop and write nothing."""

    sqlstate = "JS430"


class RequestInProgressError(DomainError):
    """The same idempotency key is being executed. Fields: retry_after_seconds."""

    sqlstate = "JS431"


class IdempotencyMismatchError(DomainError):
    """The idempotency key was used with another request body."""

    sqlstate = "JS432"


class UnknownCodeError(DomainError):
    """No such promo or gift code; a withdrawn one looks the same."""

    sqlstate = "JS440"


class ExpiredCodeError(DomainError):
    """The code's time is over. Fields: expired_at."""

    sqlstate = "JS441"


class UsedUpCodeError(DomainError):
    """The code was redeemed as often as it may be."""

    sqlstate = "JS442"


class MoneyInvariantError(DomainError):
    """A replay carries other amounts than the first call, or a row would break the ledger."""

    sqlstate = "JS500"


class TemporarilyUnavailableError(DomainError):
    """Something we depend on does not answer; nothing was lost. Fields: what."""


class NotSetUpError(DomainError):
    """This installation does not offer it: a key is missing. Fields: what."""


class WebhookRefusedError(DomainError):
    """Not signed by the provider, or not for us. Fields: reason."""


class BadCredentialsError(DomainError):
    """Sign-in, token or one-time code refused. Fields: reason."""


class RateLimitedError(DomainError):
    """Fields: retry_after_seconds, policy."""


class UnsupportedMediaError(DomainError):
    """A file that is not an image we take. Fields: reason, detail."""


class PayloadTooLargeError(DomainError):
    """Fields: limit_bytes or limit_pixels, reason, detail."""


class RetryableError(Exception):
    """A task failed for a reason that may pass: it is tried again with backoff."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class PermanentError(Exception):
    """A task cannot succeed however often it runs: it becomes a dead letter."""


_BY_SQLSTATE: dict[str, type[DomainError]] = {
    cls.sqlstate: cls for cls in DomainError.__subclasses__() if cls.sqlstate
}


def from_database(error: psycopg.Error) -> DomainError | None:
    """The DomainError that a SQL function raised, or None for a driver's own error."""
    cls = _BY_SQLSTATE.get(error.sqlstate or "")
    if cls is None:
        return None
    detail = error.diag.message_detail
    fields: dict[str, Any] = msgspec.json.decode(detail) if detail else {}
    return cls(**fields)
