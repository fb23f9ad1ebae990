"""Returns of money as the buyer sees them: on the wire they are called refunds. Money is in the
currency's smallest unit.
"""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from core.payments.types import Return, ReturnOrigin, ReturnState

# Larger than any pack or payment, and within a bigint.
AMOUNT_MAX = 10**12

# What may be null carries its limits inside: msgspec takes none on a union.
UnusedCredits = Annotated[
    int,
    Meta(
        description="At most what is unused of this payment; all of that by default.",
        ge=1,
        le=AMOUNT_MAX,
        examples=[20],
    ),
]
Reason = Annotated[str, Meta(max_length=500, examples=["Bought too many."])]


class CreateRefund(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unused credits of one payment, returned for the money that they cost."""

    order_id: Annotated[uuid.UUID, Meta(description="The payment's id.")]
    credits: UnusedCredits | None = None
    reason: Reason | None = None


class RefundView(msgspec.Struct, frozen=True, kw_only=True):
    """A return of money: on its way back to the buyer, or back already."""

    id: uuid.UUID
    order_id: Annotated[uuid.UUID, Meta(description="The payment's id.")]
    amount: Annotated[int, Meta(examples=[796])]
    currency: Annotated[str, Meta(examples=["eur"])]
    state: Annotated[
        ReturnState,
        Meta(
            description="`requested`: not yet at Stripe. `pending`, `requires_action`: on its way."
            " `failed`, `canceled`, `refused`: the money stays, and the credits are back."
        ),
    ]
    origin: Annotated[ReturnOrigin, Meta(description="Who asked for it.")]
    reason: str | None
    failure_reason: Annotated[str | None, Meta(description="A stable word.")]
    created_at: datetime
    updated_at: datetime


def refund_view(asked: Return) -> RefundView:
    return msgspec.convert(asked, RefundView, from_attributes=True)
