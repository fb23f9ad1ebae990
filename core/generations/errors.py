"""What stands in the way of a generation."""

import uuid

from core.errors import ConflictError, InJobs, Reason


class GenerationReason(Reason):
    ALREADY_BOUGHT = "already_bought"
    ALREADY_FINISHED = "already_finished"
    EVENT_STREAMS = "event_streams"
    NO_IMAGE = "no_image"
    NOT_FINISHED = "not_finished"
    WRONG_STATE = "wrong_state"


class AlreadyBoughtError(ConflictError):
    """The late image was bought before, as this generation."""

    in_jobs = InJobs.NEVER
    speaks_for = (GenerationReason.ALREADY_BOUGHT,)

    generation_id: uuid.UUID


class WrongStateError(ConflictError):
    """A generation cannot go from `state` to `wanted`: somebody else moved it."""

    in_jobs = InJobs.BACKOFF
    speaks_for = (GenerationReason.WRONG_STATE,)

    state: str
    wanted: str
