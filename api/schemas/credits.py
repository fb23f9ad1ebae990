"""Credits as the API shows them. Units: whole credits."""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from api.schemas.me import BalanceView
from core.credits.types import (
    Balance,
    Entry,
    EntryKind,
    Overview,
    Source,
)
from core.generations.explanation import Explanation, LineKind, Outcome

_ACCOUNT_NAME = (
    "`available`, `reserved` and `debt` are the user's; `sales`, `signup`, `promo`, `gift`,"
    " `referral`, `adjustments`, `usage` and `expired` are the system's."
)


class LotView(msgspec.Struct, frozen=True):
    """Credits that came in together and expire together."""

    id: uuid.UUID
    source: Source
    granted: Annotated[int, Meta(examples=[10])]
    remaining: Annotated[int, Meta(description="Not spent, set aside or expired.", examples=[9])]
    expires_at: Annotated[datetime | None, Meta(description="Null: never.")]
    created_at: datetime


class CreditsView(msgspec.Struct, frozen=True):
    """What can be spent, what is held, what is owed, and what expires when."""

    balance: BalanceView
    lots: Annotated[
        list[LotView],
        Meta(
            description="In the order in which they are spent: the soonest to expire, then free,"
            " then bought."
        ),
    ]


class ChangeView(msgspec.Struct, frozen=True):
    """What the entry did to each figure of the balance."""

    available: Annotated[int, Meta(examples=[-1])]
    reserved: Annotated[int, Meta(examples=[1])]
    debt: Annotated[int, Meta(examples=[0])]


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger. Lines are never changed or deleted."""

    id: Annotated[int, Meta(description="Rises with time.", examples=[1042])]
    kind: EntryKind
    text: Annotated[
        str,
        Meta(
            description="The line in words.",
            examples=["1 credit set aside for packshot, from your sign-up credits."],
        ),
    ]
    amount: Annotated[int, Meta(description="Always positive.", examples=[1])]
    debit: Annotated[str, Meta(description=f"Taken from. {_ACCOUNT_NAME}", examples=["available"])]
    credit: Annotated[str, Meta(description="Given to; as `debit`.", examples=["reserved"])]
    change: ChangeView
    balance_after: Annotated[
        BalanceView | None, Meta(description="Null in a list that is filtered.")
    ]
    source: Annotated[Source | None, Meta(description="Of the lot.")]
    lot_id: uuid.UUID | None
    lot_expires_at: Annotated[
        datetime | None, Meta(description="When the lot expired, as it stood after this line.")
    ]
    reservation_id: uuid.UUID | None
    generation_id: Annotated[
        uuid.UUID | None, Meta(description="See `GET /v1/credits/explain/{generation_id}`.")
    ]
    operation: Annotated[str | None, Meta(examples=["packshot"])]
    created_at: datetime


class MoneyView(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's line behind the words."""

    entry_id: int
    kind: EntryKind
    amount: int
    debit: str
    credit: str
    lot_id: uuid.UUID | None
    source: Source | None
    lot_expires_at: datetime | None
    extended_from: Annotated[
        datetime | None,
        Meta(description="The lot had expired at this time and was given seven days more."),
    ]


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the provider, and how it ended. You pay the price, not the calls."""

    call_id: uuid.UUID
    endpoint: Annotated[str, Meta(examples=["fal-ai/birefnet/v2"])]
    step: Annotated[int, Meta(description="Of the operation, from 0.")]
    attempt: Annotated[int, Meta(description="Of this generation, from 1.")]
    is_resubmission: Annotated[
        bool, Meta(description="Sent although an earlier call's fate was not known.")
    ]
    state: str
    http_status: int | None
    error_type: str | None
    billable_units: Annotated[
        str | None, Meta(description="The provider's own figure.", examples=["1"])
    ]


class LineView(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `money`, `call` or `state` is what the words come from."""

    at: datetime
    kind: LineKind
    text: str
    money: MoneyView | None
    call: CallView | None
    state: str | None


class ExplanationView(msgspec.Struct, frozen=True, kw_only=True):
    """What one generation cost and refunded, and its provider calls."""

    generation_id: uuid.UUID
    operation: Annotated[str, Meta(examples=["packshot"])]
    lane: str
    state: str
    cost_credits: Annotated[int, Meta(examples=[1])]
    outcome: Outcome
    reserved: Annotated[int, Meta(description="Set aside in all.", examples=[1])]
    charged: Annotated[int, Meta(examples=[1])]
    refunded: Annotated[int, Meta(examples=[0])]
    provider_calls: Annotated[int, Meta(examples=[1])]
    resubmissions: Annotated[int, Meta(examples=[0])]
    billable_units: str | None
    summary: Annotated[str, Meta(examples=["Packshot was delivered and cost 1 credit."])]
    lines: Annotated[list[LineView], Meta(description="In the order of time.")]


def balance_view(balance: Balance) -> BalanceView:
    return BalanceView(balance.available, balance.reserved, balance.debt)


def credits_view(overview: Overview) -> CreditsView:
    return msgspec.convert(overview, CreditsView, from_attributes=True)


def entry_view(entry: Entry) -> EntryView:
    return msgspec.convert(entry, EntryView, from_attributes=True)


def explanation_view(explanation: Explanation) -> ExplanationView:
    return msgspec.convert(explanation, ExplanationView, from_attributes=True)
