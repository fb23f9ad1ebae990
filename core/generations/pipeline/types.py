"""What the pipeline reads and writes of calls and their generations: the rows as structs."""

import uuid
from enum import StrEnum
from typing import Any

import msgspec

from core.catalog.types import Preset, Step
from core.changes import Change
from core.generations.providers.base import CallAddress
from core.generations.types import CallState, GenerationState

# Calls whose end is still to be fetched; an abandoned one may bring a late image.
OPEN_CALLS = frozenset({CallState.ACCEPTED, CallState.ABANDONED})


class Role(StrEnum):
    """What a call is to its generation when its result is fetched (app.begin_collect)."""

    CURRENT = "current"
    SUPERSEDED = "superseded"
    """The generation was submitted again meanwhile and waits for the newer call."""
    LATE = "late"


class RefusalAbout(StrEnum):
    """Whom a 403 at a submit speaks of (app.whose_refusal)."""

    ACCOUNT = "account"
    PERSON = "person"
    """It refused another order of theirs before, and took others' since."""
    GENERATION = "generation"
    """It refused this one before, and took others since."""


class CallIntent(msgspec.Struct, frozen=True, kw_only=True):
    """The intent of one POST: the call's row exists, nothing has been sent yet."""

    call_id: uuid.UUID
    callback_token: str
    generation_id: uuid.UUID
    user_id: uuid.UUID
    version: int
    step: int
    attempt: int
    provider: str
    account_id: uuid.UUID
    account: str
    account_is_open: bool
    key_fingerprint: str
    operation: str
    steps: list[Step]
    params_schema: dict[str, Any]
    presets: list[Preset]
    params: dict[str, Any]
    input_key: str
    seconds_left: float
    """Until the generation is given up, by the database's clock when the call was opened."""

    @property
    def provider_step(self) -> Step:
        return self.steps[self.step]

    @property
    def change(self) -> Change:
        return Change(
            generation_id=self.generation_id,
            user_id=self.user_id,
            state=GenerationState.SUBMITTING,
            version=self.version,
        )


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose result is being fetched, and its generation (app.begin_collect)."""

    role: Role
    generation_id: uuid.UUID
    user_id: uuid.UUID
    state: GenerationState
    version: int
    attempts: int
    is_given_up: bool
    """The sweep has asked the provider to stop, or is about to."""
    cancel_requested: bool
    operation: str
    output_rule: str
    steps: list[Step]
    params: dict[str, Any]
    source_key: str
    source_width: int
    source_height: int
    call_state: CallState
    call_id: uuid.UUID
    call_seconds: float
    """Since the call was opened, by the database's clock when its result was fetched."""
    abandoned_seconds: float | None
    """Since nobody waits for it any more; None: somebody does."""
    step: int
    endpoint: str
    provider: str
    account_id: uuid.UUID
    account: str
    key_fingerprint: str
    request_id: str | None
    response_url: str | None

    @property
    def provider_step(self) -> Step:
        return self.steps[self.step]

    @property
    def address(self) -> CallAddress:
        return CallAddress(
            account=self.account,
            key_fingerprint=self.key_fingerprint,
            endpoint=self.endpoint,
            request_id=self.request_id,
            response_url=self.response_url,
        )

    @property
    def is_abandoned(self) -> bool:
        return self.abandoned_seconds is not None

    @property
    def is_last_step(self) -> bool:
        return self.step == len(self.steps) - 1

    @property
    def change(self) -> Change:
        return Change(
            generation_id=self.generation_id,
            user_id=self.user_id,
            state=self.state,
            version=self.version,
        )


class ProviderCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call's row, as far as calls of the provider need it."""

    id: uuid.UUID
    generation_id: uuid.UUID
    provider: str
    account_id: uuid.UUID
    account: str
    key_fingerprint: str
    endpoint: str
    state: CallState
    polls: int
    unknown_polls: int
    request_id: str | None
    status_url: str | None
    cancel_url: str | None

    @property
    def address(self) -> CallAddress:
        return CallAddress(
            account=self.account,
            key_fingerprint=self.key_fingerprint,
            endpoint=self.endpoint,
            request_id=self.request_id,
            status_url=self.status_url,
            cancel_url=self.cancel_url,
        )


class CallEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a provider call ended: the facts that app.end_call records."""

    state: CallState
    http_status: int | None = None
    error_type: str | None = None
    error_detail: str | None = None
    billable_units: str | None = None
