"""The domain's errors: frozen structs with declared fields, which know no HTTP.

Here are the base and what belongs to no noun; a noun's own errors stand in its `errors.py`.
api/problems.py maps each class to a problem document, core/sql_errors.py knows which one a SQL
function raised, and the runner of tasks reads from a class what it means for a task (`in_jobs`).
"""

import dataclasses
from collections.abc import Callable
from enum import StrEnum
from typing import Any, ClassVar, dataclass_transform

import msgspec


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
    """A vendor or a service is unavailable: this uses up no attempt."""


class Reason(StrEnum):
    """Base of the words that a field `reason` may hold; each noun has its own.

    A word stands in one of them only. Its sentence is `reason.<word>` of core/words.
    """


def find_reason(word: str) -> Reason | None:
    """The word, of whichever noun's reasons it is."""
    nouns = (noun._value2member_map_.get(word) for noun in Reason.__subclasses__())
    return next((found for found in nouns if isinstance(found, Reason)), None)


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True)
class DomainError(Exception):
    """Base of all errors that a caller can do something about.

    A subclass declares its fields like a dataclass; they are keywords of its constructor, are set
    once, and make its equality and its text. Only they are frozen: Python itself sets
    `__traceback__`, `__cause__` and notes on an error that is on its way. What stands in a field
    may be shown to the caller and written to a log, so no secret ever does.
    """

    sqlstate: ClassVar[str | None] = None
    in_jobs: ClassVar[InJobs]
    failure_kind: ClassVar[FailureKind] = FailureKind.ERROR
    for_reasons: ClassVar[tuple[Reason, ...]] = ()
    """The reasons that SQL writes for this class, where it shares the SQLSTATE of its base."""
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


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with what was given, and where: a JSON pointer into the body."""

    pointer: str
    detail: str


class InputReason(Reason):
    """What any value may be refused for."""

    ID_TAKEN = "id_taken"
    IN_THE_PAST = "in_the_past"
    NOT_A_CURSOR = "not_a_cursor_of_this_list"
    NOT_AN_IDEMPOTENCY_KEY = "not_an_idempotency_key"
    OUT_OF_RANGE = "out_of_range"
    REQUIRED = "required"


class WebhookReason(Reason):
    """Why a webhook is refused."""

    HEADER = "webhook_header"
    NOT_AN_EVENT = "webhook_not_an_event"
    OTHER_MODE = "webhook_other_mode"
    REQUEST_ID = "webhook_request_id"
    SIGNATURE = "webhook_signature"
    TIMESTAMP = "webhook_timestamp"


class NotAllowedError(DomainError):
    sqlstate = "JS403"
    in_jobs = InJobs.NEVER

    reason: Reason


class NotFoundError(DomainError):
    """Also what another user's row looks like."""

    sqlstate = "JS404"
    in_jobs = InJobs.NEVER

    kind: str


class ConflictError(DomainError):
    """The thing is not in a state that allows this.

    In a job it means that another process changed the thing meanwhile: the next attempt reads its
    state anew and usually finds nothing left to do.
    """

    sqlstate = "JS409"
    in_jobs = InJobs.BACKOFF

    reason: Reason
    state: str | None = None


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
    reason: Reason
    errors: tuple[Fault, ...] = ()


class QuotaError(DomainError):
    """A stated limit is reached."""

    sqlstate = "JS429"
    in_jobs = InJobs.BACKOFF

    reason: Reason
    limit: int
    retry_after_seconds: int | None = None
    """When it may be possible again, where that is known."""


class RequestInProgressError(DomainError):
    """The same idempotency key is being executed."""

    sqlstate = "JS431"
    in_jobs = InJobs.BACKOFF

    retry_after_seconds: int


class IdempotencyMismatchError(DomainError):
    """The idempotency key was used with another request body."""

    sqlstate = "JS432"
    in_jobs = InJobs.NEVER


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

    reason: WebhookReason


class RateLimitedError(DomainError):
    in_jobs = InJobs.BACKOFF

    retry_after_seconds: float
    policy: str


class RetryableError(Exception):
    """A task failed for a reason that may pass: it is tried again with backoff.

    Raise it with `kind=FailureKind.ABSENT` where a vendor or a service did not answer.
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
