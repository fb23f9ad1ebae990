"""What a generation is, as the worker and the API see it."""

import uuid
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from core.catalog.types import Step
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


class Role(StrEnum):
    """What a call is to its generation when its result is fetched (app.begin_collect)."""

    CURRENT = "current"
    RIVAL = "rival"
    LATE = "late"


class Ticket(msgspec.Struct, frozen=True):
    """The intent of one POST (app.ticket): the row exists, nothing has been sent yet."""

    call_id: uuid.UUID
    callback_token: str
    generation_id: uuid.UUID
    user_id: uuid.UUID
    version: int
    request_id: str | None
    step: int
    attempt: int
    account_id: uuid.UUID
    account: str
    account_is_open: bool
    key_fingerprint: str
    operation: str
    steps: list[Step]
    params_schema: dict[str, Any]
    presets: list[dict[str, Any]]
    params: dict[str, Any]
    input_key: str
    give_up_at: datetime
    created_at: datetime

    @property
    def provider_step(self) -> Step:
        return self.steps[self.step]


class Collection(msgspec.Struct, frozen=True):
    """A call whose result is being fetched, and its generation (app.begin_collect)."""

    role: Role
    generation_id: uuid.UUID
    user_id: uuid.UUID
    state: GenerationState
    version: int
    attempts: int
    give_up_at: datetime
    cancel_requested: bool
    operation: str
    lane: str
    output_rule: str
    steps: list[Step]
    params: dict[str, Any]
    input_key: str
    source_key: str
    source_width: int
    source_height: int
    call_state: CallState
    call_id: uuid.UUID
    call_created_at: datetime
    step: int
    endpoint: str
    account_id: uuid.UUID
    account: str
    key_fingerprint: str
    request_id: str | None
    response_url: str | None

    @property
    def provider_step(self) -> Step:
        return self.steps[self.step]

    @property
    def is_given_up(self) -> bool:
        """The sweep has asked the provider to stop, or is about to."""
        return self.give_up_at <= datetime.now(UTC)

    @property
    def is_last_step(self) -> bool:
        return self.step == len(self.steps) - 1

    @property
    def change(self) -> dict[str, Any]:
        return {
            "generation_id": str(self.generation_id),
            "user_id": str(self.user_id),
            "state": self.state,
            "version": self.version,
        }


class CallEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a provider call ended: the facts that app.end_call records."""

    state: CallState
    http_status: int | None = None
    error_type: str | None = None
    error_detail: str | None = None
    billable_units: str | None = None


class Problem(msgspec.Struct, frozen=True):
    """Why there is no image, in a stable code and in words for the user."""

    code: str
    detail: str


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
    """What is asked for; the id is minted before the transaction, so a retry finds itself done."""

    operation: str
    upload_id: uuid.UUID
    params: dict[str, Any]
    priority: Priority = Priority.INTERACTIVE
    retry_of: uuid.UUID | None = None
    id: uuid.UUID = msgspec.field(default_factory=new_id)


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
    deadline_at: datetime
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    result: ResultImage | None = None
    problem: Problem | None = None

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
