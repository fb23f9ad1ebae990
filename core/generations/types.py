"""What a generation is, as the worker and the API see it."""

import uuid
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from core.generations.endings import Ending
from core.ids import new_id


class GenerationState(StrEnum):
    QUEUED = "queued"
    SUBMITTING = "submitting"
    RUNNING = "running"
    COLLECTING = "collecting"
    UNCERTAIN = "uncertain"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED_STATES = frozenset(
    {GenerationState.SUCCEEDED, GenerationState.FAILED, GenerationState.CANCELLED}
)


class Priority(IntEnum):
    INTERACTIVE = 0
    BATCH = 1


class CallState(StrEnum):
    SUBMITTING = "submitting"
    ACCEPTED = "accepted"
    AMBIGUOUS = "ambiguous"
    REFUSED = "refused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    ABANDONED = "abandoned"


class ResultImage(msgspec.Struct, frozen=True):
    """The delivered image; sizes in pixels and bytes. `facts` say what was done to the piece."""

    storage_key: str
    thumbnail_key: str
    content_type: str
    width: int
    height: int
    size_bytes: int
    pixel_sha256: str
    facts: dict[str, Any]


class NewGeneration(msgspec.Struct, frozen=True):
    """The request; its id is minted before the transaction, so a retry finds itself done."""

    operation: str
    upload_id: uuid.UUID
    params: dict[str, Any]
    priority: Priority = Priority.INTERACTIVE
    retry_of: uuid.UUID | None = None
    id: uuid.UUID = msgspec.field(default_factory=new_id)


class Outlook(msgspec.Struct, frozen=True):
    """What can be said of one that has not ended; both are about."""

    place_in_line: int | None = None
    """How many turns until its own, that one included; None when it does not wait for one."""
    expected_at: datetime | None = None
    """When it will have ended; None while nobody is served."""


class Generation(msgspec.Struct, frozen=True):
    id: uuid.UUID
    operation: str
    operation_version: int
    lane: str
    state: GenerationState
    version: int
    cost_credits: int
    upload_id: uuid.UUID
    params: dict[str, Any]
    priority: Priority
    retry_of: uuid.UUID | None
    created_at: datetime
    wait_until: datetime | None
    """Until when it may wait for its turn; None once it has begun."""
    deadline_at: datetime | None
    """When it has ended at the latest; None while it is held."""
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    result: ResultImage | None = None
    ending: Ending | None = None
    charged_credits: int | None = None
    """What was charged in the end; None while it runs."""
    cancel_credits: int = 0
    """What cancelling it now would cost."""
    outlook: Outlook | None = None
    """None when it has ended, or is held."""

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED_STATES


class StateChange(msgspec.Struct, frozen=True):
    state: GenerationState
    version: int
    at: datetime


class LateImage(msgspec.Struct, frozen=True):
    """An image that came after its refund, on offer until it expires."""

    expires_at: datetime
    bought_as: uuid.UUID | None
    width: int
    height: int


class Filters(msgspec.Struct, frozen=True):
    state: GenerationState | None = None
    operation: str | None = None
    upload_id: uuid.UUID | None = None


class ResultFile(msgspec.Struct, frozen=True):
    """One of the two files of a delivered image; `name` is what a browser calls it when saved."""

    storage_key: str
    content_type: str
    name: str
