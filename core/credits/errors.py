"""What the ledger refuses."""

import uuid

from core.errors import DomainError, InJobs, Reason


class CreditReason(Reason):
    NOT_POSITIVE = "not_positive"
    NOT_THE_BEGINNING_OF_AN_ID = "not_the_beginning_of_an_id"
    RESERVATION_CONFIRMED = "reservation_confirmed"
    RESERVATION_REFUNDED = "reservation_refunded"


class InsufficientCreditsError(DomainError):
    """Whole credits."""

    sqlstate = "JS402"
    in_jobs = InJobs.NEVER

    required: int
    available: int
    debt: int


class MoneyInvariantError(DomainError):
    """A replay carries other amounts than the first call, or a row would break the ledger."""

    sqlstate = "JS500"
    in_jobs = InJobs.NEVER

    table: str | None = None
    subject_id: uuid.UUID | None = None
    idempotency_key: str | None = None
