"""One run explained: the rows that the explanation reads, and its lines."""

import uuid
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from core.credits.types import EntryKind, Source
from core.generations.endings import Ending
from core.generations.types import CallState, GenerationState, StateChange


class LineKind(StrEnum):
    MONEY = "money"
    PROVIDER = "provider"
    STATE = "state"


class Outcome(StrEnum):
    """Whether the credits of a run are reserved, charged, refunded, or some of each."""

    RESERVED = "reserved"
    CHARGED = "charged"
    CHARGED_IN_PART = "charged_in_part"
    REFUNDED = "refunded"


class MoneyFacts(msgspec.Struct, frozen=True, kw_only=True):
    entry_id: int
    kind: EntryKind
    amount: int
    debit: str
    credit: str
    lot_id: uuid.UUID | None
    source: Source | None
    lot_expires_at: datetime | None
    extended_from: datetime | None


class CallFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One POST to the provider. `billable_units` is the provider's own figure, as text."""

    call_id: uuid.UUID
    endpoint: str
    step: int
    attempt: int
    is_resubmission: bool
    state: str
    http_status: int | None
    error_type: str | None
    billable_units: str | None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened, in words, with the facts that the words come from."""

    at: datetime
    kind: LineKind
    text: str
    money: MoneyFacts | None = None
    call: CallFacts | None = None
    state: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What one run cost and refunded, and its provider calls. Units: whole credits."""

    generation_id: uuid.UUID
    operation: str
    lane: str
    state: str
    cost_credits: int
    outcome: Outcome
    reserved: int
    charged: int
    refunded: int
    provider_calls: int
    resubmissions: int
    billable_units: str | None
    summary: str
    lines: list[Line]


# --- the rows ------------------------------------------------------------------------------------


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """The generation, with what its operation says."""

    id: uuid.UUID
    operation: str
    title: str
    lane: str
    state: GenerationState
    cost_credits: int
    retry_of: uuid.UUID | None
    cancel_requested_at: datetime | None
    ending: Ending | None
    created_at: datetime
    finished_at: datetime | None
    steps: int


class TransferRow(MoneyFacts, frozen=True, kw_only=True):
    """A line of the ledger. `created_at` is the start of its transaction."""

    created_at: datetime
    is_share: bool = False


class CallRow(msgspec.Struct, frozen=True, kw_only=True):
    call_id: uuid.UUID
    endpoint: str
    step: int
    attempt: int
    is_resubmission: bool
    state: CallState
    accepted_at: datetime | None
    ended_at: datetime | None
    http_status: int | None
    error_type: str | None
    billable_units: Decimal | None
    created_at: datetime


class LateImageRow(msgspec.Struct, frozen=True, kw_only=True):
    created_at: datetime
    expires_at: datetime
    bought_as: uuid.UUID | None


class RunRows(msgspec.Struct, frozen=True):
    """`states` are empty when the run's events are over their 90 days."""

    generation: RunRow
    transfers: list[TransferRow]
    calls: list[CallRow]
    states: list[StateChange]
    late_image: LateImageRow | None
