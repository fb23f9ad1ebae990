"""People, their credits and the audit log, as admins see them."""

import uuid
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.schemas.admin.audit import AuditReason
from api.schemas.credits import CreditsView, EntryView
from api.schemas.me import BalanceView

ADJUSTMENT_MAX = 1_000_000


class UserView(msgspec.Struct, frozen=True):
    id: uuid.UUID
    created_at: Annotated[datetime, Meta(description="When the account was opened.")]
    balance: BalanceView


class UserCreditsView(CreditsView, frozen=True, kw_only=True):
    """One person's balance and lots."""

    user_id: uuid.UUID


class AdminEntryView(EntryView, frozen=True, kw_only=True):
    """A line of the ledger with what the user does not see."""

    actor: Annotated[str, Meta(description="`system`, `user`, `break-glass` or the admin's id.")]
    note: Annotated[str | None, Meta(description="The reason of an adjustment.")]
    reference: Annotated[str | None, Meta(description="The payment, if there is one.")]
    idempotency_key: str


class CreateAdjustment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Credits given or taken by hand."""

    amount: Annotated[
        int,
        Meta(
            description="Above zero gives, below zero takes; what is not there becomes debt.",
            ge=-ADJUSTMENT_MAX,
            le=ADJUSTMENT_MAX,
            examples=[5],
        ),
    ]
    reason: Annotated[
        AuditReason, Meta(examples=["The packshot of order 1042 came out with a cut prong."])
    ]


class AdjustmentView(msgspec.Struct, frozen=True):
    """The adjustment, and the balance after it."""

    user_id: uuid.UUID
    amount: int
    reason: str
    balance: BalanceView


class AuditView(msgspec.Struct, frozen=True):
    """One thing that an admin did. Lines are never changed or deleted."""

    id: int
    actor: Annotated[str, Meta(description="The admin's id, `break-glass` or `system`.")]
    action: Annotated[str, Meta(examples=["credits.adjust"])]
    target: Annotated[str | None, Meta(description="Whom or what it was done to.")]
    detail: dict[str, Any]
    created_at: datetime
