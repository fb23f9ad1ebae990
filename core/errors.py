"""The domain's errors: frozen structs with declared fields, which know no HTTP.

api/problems.py maps each class to a problem document; the runner of jobs asks a class what it
means for a task (`in_jobs`). SQL functions raise `errcode = 'JSnnn', detail = <json>`;
`from_database` turns that into one of these classes. Message text is never matched.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Any, ClassVar, dataclass_transform, get_type_hints

import msgspec
import psycopg


class InJobs(StrEnum):
    """What an error means for the task that met it. Each class states its own."""

    NEVER = "never"
    """However often the task runs, it cannot succeed: it becomes a dead letter."""
    BACKOFF = "backoff"
    """It may pass: the task runs again later."""
    STOP = "stop"
    """The lease is lost, and with it the right to write: nothing is recorded."""


class FailureKind(StrEnum):
    """What a failure that may pass is counted as."""

    ERROR = "error"
    """An attempt of the job."""
    ABSENT = "absent"
    """A vendor or a service is away: that uses up nobody's attempts."""


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True)
class DomainError(Exception):
    """Base of all errors that a caller can do something about.

    A subclass declares its fields like a dataclass; they are keywords of its constructor, are set
    once, and make its equality and its text. Only they are frozen: Python itself sets
    `__traceback__`, `__cause__` and notes on an error that is on its way. What stands in a field
    may be shown to whoever asked and written to a log, so no secret ever does.
    """

    sqlstate: ClassVar[str | None] = None
    in_jobs: ClassVar[InJobs]
    failure_kind: ClassVar[FailureKind] = FailureKind.ERROR
    field_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        assert "in_jobs" in vars(cls), f"{cls.__name__} does not say what it means in jobs"
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        cls.field_names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]  # the line above makes it one

    @property
    def values(self) -> tuple[object, ...]:
        """Of all declared fields, in their order."""
        return tuple(getattr(self, name) for name in self.field_names)

    @property
    def fields(self) -> dict[str, Any]:
        """The declared fields that have a value, by name."""
        given = zip(self.field_names, self.values, strict=True)
        return {name: value for name, value in given if value is not None and value != ()}

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.field_names and name in vars(self):
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.field_names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super().__delattr__(name)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, DomainError)
            and type(self) is type(other)
            and self.values == other.values
        )

    def __hash__(self) -> int:
        return hash(type(self))  # a field may hold what has no hash

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.fields.items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as cls(*args); these take keywords and cross the borders of processes.
        values = dict(zip(self.field_names, self.values, strict=True))
        return _rebuild, (type(self), values)


def _rebuild(cls: Callable[..., DomainError], fields: dict[str, Any]) -> DomainError:
    return cls(**fields)


class Reason(StrEnum):
    """Base of the words that a field `reason` may hold; each noun has its own.

    A word stands in one of them only. Its sentence is `reason.<word>` of core/words.
    """


def find_reason(word: str) -> Reason | None:
    """The word, of whichever noun's reasons it is."""
    nouns = (noun._value2member_map_.get(word) for noun in Reason.__subclasses__())
    return next((found for found in nouns if isinstance(found, Reason)), None)


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with what was given, and where: a JSON pointer into the body."""

    pointer: str
    detail: str


class NoIdentityError(DomainError):
    """The transaction carries no verified user."""

    sqlstate = "JS401"
    in_jobs = InJobs.NEVER

    reason: str = "no_token"


class InsufficientCreditsError(DomainError):
    """Whole credits."""

    sqlstate = "JS402"
    in_jobs = InJobs.NEVER

    required: int
    available: int
    debt: int


class NotAllowedError(DomainError):
    sqlstate = "JS403"
    in_jobs = InJobs.NEVER

    reason: str
    reasons: tuple[str, ...] = ()


class NotFoundError(DomainError):
    """Also what another user's row looks like."""

    sqlstate = "JS404"
    in_jobs = InJobs.NEVER

    kind: str


class ConflictError(DomainError):
    """The thing is not in a state that allows this.

    In a job it says that somebody else moved the thing meanwhile: the next attempt reads its
    state anew and usually finds nothing left to do.
    """

    sqlstate = "JS409"
    in_jobs = InJobs.BACKOFF

    reason: str
    state: str | None = None
    wanted: str | None = None
    generation_id: uuid.UUID | None = None
    batch_id: uuid.UUID | None = None
    refund_days: int | None = None


class GoneError(DomainError):
    """It existed and has expired."""

    sqlstate = "JS410"
    in_jobs = InJobs.NEVER

    kind: str


class InvalidInputError(DomainError):
    """`errors` names each fault where there may be several."""

    sqlstate = "JS422"
    in_jobs = InJobs.NEVER

    field: str
    reason: str
    reasons: tuple[str, ...] = ()
    errors: tuple[Fault, ...] = ()


class QuotaError(DomainError):
    """A stated limit is reached."""

    sqlstate = "JS429"
    in_jobs = InJobs.BACKOFF

    reason: str
    limit: int


class LeaseLostError(DomainError):
    """Another worker holds this now: stop and write nothing."""

    sqlstate = "JS430"
    in_jobs = InJobs.STOP


class RequestInProgressError(DomainError):
    """The same idempotency key is being executed."""

    sqlstate = "JS431"
    in_jobs = InJobs.BACKOFF

    retry_after_seconds: int


class IdempotencyMismatchError(DomainError):
    """The idempotency key was used with another request body."""

    sqlstate = "JS432"
    in_jobs = InJobs.NEVER


class UnknownCodeError(DomainError):
    """No such promo or gift code; a withdrawn one looks the same."""

    sqlstate = "JS440"
    in_jobs = InJobs.NEVER


class ExpiredCodeError(DomainError):
    """The code's time is over."""

    sqlstate = "JS441"
    in_jobs = InJobs.NEVER

    expired_at: dt.datetime


class UsedUpCodeError(DomainError):
    """The code was redeemed as often as it may be."""

    sqlstate = "JS442"
    in_jobs = InJobs.NEVER


class MoneyInvariantError(DomainError):
    """A replay carries other amounts than the first call, or a row would break the ledger."""

    sqlstate = "JS500"
    in_jobs = InJobs.NEVER

    table: str | None = None
    subject_id: uuid.UUID | None = None
    idempotency_key: str | None = None


class TemporarilyUnavailableError(DomainError):
    """Something we depend on does not answer; nothing was lost."""

    in_jobs = InJobs.BACKOFF
    failure_kind = FailureKind.ABSENT

    what: str


class NotSetUpError(DomainError):
    """This installation does not offer it: a key is missing. Another process may have it."""

    in_jobs = InJobs.BACKOFF
    failure_kind = FailureKind.ABSENT

    what: str


class WebhookRefusedError(DomainError):
    """Not signed by the provider, or not for us."""

    in_jobs = InJobs.NEVER

    reason: str


class BadCredentialsError(DomainError):
    """Sign-in, token or one-time code refused."""

    in_jobs = InJobs.NEVER

    reason: str
    reasons: tuple[str, ...] = ()


class RateLimitedError(DomainError):
    in_jobs = InJobs.BACKOFF

    retry_after_seconds: float
    policy: str


class RetryableError(Exception):
    """A task failed for a reason that may pass: it is tried again with backoff.

    Whoever raises it says `kind=FailureKind.ABSENT` where a vendor or a service did not answer.
    """

    def __init__(
        self,
        reason: str,
        *,
        kind: FailureKind = FailureKind.ERROR,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds


class PermanentError(Exception):
    """A task cannot succeed however often it runs: it becomes a dead letter."""


class JobFailure(msgspec.Struct, frozen=True):
    """What an error that a job raised means for its task."""

    in_jobs: InJobs
    kind: FailureKind
    reason: str
    retry_after_seconds: float | None = None


def job_failure(error: Exception) -> JobFailure | None:
    """None for an error that nobody declared: an attempt of the job, and an alarm."""
    match error:
        case DomainError():
            wait = getattr(error, "retry_after_seconds", None)
            return JobFailure(error.in_jobs, error.failure_kind, repr(error), wait)
        case RetryableError():
            return JobFailure(InJobs.BACKOFF, error.kind, str(error), error.retry_after_seconds)
        case PermanentError():
            return JobFailure(InJobs.NEVER, FailureKind.ERROR, str(error))
        case _:
            return None


def _wire_type(cls: type[DomainError]) -> type[msgspec.Struct]:
    """A struct with the fields of `cls`; msgspec itself cannot make an exception."""
    hints = get_type_hints(cls)
    declared: list[Any] = [
        (field.name, hints[field.name])
        if field.default is dataclasses.MISSING
        else (field.name, hints[field.name], field.default)
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # see __init_subclass__
    ]
    return msgspec.defstruct(cls.__name__, declared, kw_only=True, forbid_unknown_fields=True)


_BY_SQLSTATE = {cls.sqlstate: cls for cls in DomainError.__subclasses__() if cls.sqlstate}
_WIRE_TYPES = {cls: _wire_type(cls) for cls in _BY_SQLSTATE.values()}


def from_database(error: psycopg.Error) -> DomainError | None:
    """The DomainError that a SQL function raised, or None for a driver's own error.

    Raises: msgspec.ValidationError, if the function wrote a field that the class does not declare.
    """
    return decode(error.sqlstate, error.diag.message_detail)


def decode(sqlstate: str | None, detail: str | None) -> DomainError | None:
    """As `from_database`, of what SQL wrote."""
    cls = _BY_SQLSTATE.get(sqlstate or "")
    if cls is None:
        return None
    fields = msgspec.json.decode(detail or "{}", type=_WIRE_TYPES[cls])
    return _rebuild(cls, {name: getattr(fields, name) for name in cls.field_names})
