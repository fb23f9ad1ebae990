"""One run explained: the rows that it is told from, and the lines that are told."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from core.credits.types import EntryKind, Source


class LineKind(StrEnum):
    MONEY = "money"
    PROVIDER = "provider"
    STATE = "state"


class Outcome(StrEnum):
    """What became of the money of a run."""

    RESERVED = "reserved"
    CHARGED = "charged"
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
    """Everything that one run cost, gave back and asked of the provider. Units: whole credits."""

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


class RunRows(msgspec.Struct, frozen=True):
    """The rows of one run, as the queries return them."""

    generation: dict[str, Any]
    transfers: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    events: list[dict[str, Any]]
    late_image: dict[str, Any] | None
