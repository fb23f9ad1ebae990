"""Why a generation is refused."""

import uuid

from core.errors import ConflictError, InJobs, QuotaError, Reason


class GenerationReason(Reason):
    ALREADY_BOUGHT = "already_bought"
    ALREADY_FINISHED = "already_finished"
    EVENT_STREAMS = "event_streams"
    NO_IMAGE = "no_image"
    NOT_FINISHED = "not_finished"
    UNPAID_WORK = "unpaid_work"
    WRONG_STATE = "wrong_state"


class AlreadyBoughtError(ConflictError):
    """The late image was bought before, as this generation."""

    in_jobs = InJobs.NEVER
    for_reasons = (GenerationReason.ALREADY_BOUGHT,)

    generation_id: uuid.UUID


class WrongStateError(ConflictError):
    """A generation cannot go from `state` to `wanted`: another process changed it."""

    in_jobs = InJobs.BACKOFF
    for_reasons = (GenerationReason.WRONG_STATE,)

    state: str
    wanted: str


class UnpaidWorkError(QuotaError):
    """Too much of this person's work within a day was billed to us and paid by nobody.

    Whole credits: `used` is what it was worth.
    """

    in_jobs = InJobs.NEVER
    for_reasons = (GenerationReason.UNPAID_WORK,)

    used: int
    retry_after_seconds: int
