"""Orders, returns of money and Stripe's events, as admins see them."""

import uuid
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.schemas.admin.audit import AuditReason
from api.schemas.payments import PaymentView, payment_view
from api.schemas.refunds import AMOUNT_MAX, RefundView, refund_view
from core.payments.stripe.types import StripeEvent
from core.payments.types import (
    DisputeState,
    Order,
    OrderDispute,
    OrderFraudWarning,
    OrderPayment,
    Return,
    ReviewDecision,
    ReviewReason,
)

REPLAYED_MAX = 1000

# What may be null carries its limits inside: msgspec takes none on a union.
From = Annotated[datetime, Meta(description="Received then or later.", tz=True)]
To = Annotated[datetime, Meta(description="Received earlier.", tz=True)]
TypeNames = Annotated[
    list[Annotated[str, Meta(max_length=255)]],
    Meta(min_length=1, max_length=50, examples=[["checkout.session.completed"]]),
]
ActReason = Annotated[
    AuditReason, Meta(examples=["The buyer was charged for a pack that was not wanted."])
]
PaymentIntentId = Annotated[
    str,
    Meta(
        description="Which payment of the order. By default that which it was granted for; of an"
        " order that was paid twice, that which nothing was given for.",
        max_length=255,
        examples=["pi_3SRf2mJ4"],
    ),
]
RefundAmount = Annotated[
    int,
    Meta(
        description="In the smallest unit; all that is left by default.",
        ge=1,
        le=AMOUNT_MAX,
        examples=[500],
    ),
]


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """One event of Stripe, received by webhook or fetched."""

    id: Annotated[str, Meta(examples=["evt_1SRf2mJ4"])]
    type: Annotated[str, Meta(examples=["checkout.session.completed"])]
    object_id: Annotated[str | None, Meta(description="Of what it is about.")]
    created: Annotated[datetime, Meta(description="By Stripe's clock.")]
    source: Annotated[str, Meta(description="`webhook` or `reconcile`.", examples=["webhook"])]
    received_at: datetime
    handled_at: Annotated[datetime | None, Meta(description="Null: it waits.")]
    outcome: Annotated[
        str | None, Meta(description="The order's state after it, or why nothing was done.")
    ]
    order_id: uuid.UUID | None
    replays: Annotated[int, Meta(description="How often an admin put it back to work.")]


class EventDetailView(EventView, frozen=True, kw_only=True):
    """With what was signed. It may hold a name and an address."""

    payload: dict[str, Any]


class ReplayEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events: received in a range, of some types, or both. One of them is needed."""

    received_from: From | None = msgspec.field(name="from", default=None)
    received_to: To | None = msgspec.field(name="to", default=None)
    types: TypeNames | None = None
    limit: Annotated[int, Meta(ge=1, le=REPLAYED_MAX)] = 100


class ReplayedEvents(msgspec.Struct, frozen=True):
    """The events that are handled again."""

    event_ids: list[str]
    may_be_more: Annotated[bool, Meta(description="As many as `limit` were found.")]


class AdminOrderView(PaymentView, frozen=True, kw_only=True):
    """A payment with what the buyer does not see."""

    user_id: uuid.UUID
    pack_version: int
    version: Annotated[int, Meta(description="Rises with each sync.")]
    attempt: Annotated[int, Meta(description="Sessions that were wanted for it.")]
    review_reason: Annotated[
        ReviewReason | None,
        Meta(description="What differs from the order.", examples=["amount_subtotal"]),
    ]
    session_id: str | None
    payment_intent: str | None
    customer_id: str | None
    price_id: str | None


class OtherPaymentView(msgspec.Struct, frozen=True, kw_only=True):
    """A second payment of an order: its money is here, and nothing was given for it."""

    payment_intent: str
    session_id: str
    amount_total: int
    amount_refunded: int


class AdminOrderDetailView(AdminOrderView, frozen=True, kw_only=True):
    refunds: Annotated[list[RefundView], Meta(description="Newest first.")]
    other_payments: Annotated[
        list[OtherPaymentView],
        Meta(description="Of an order that was paid twice: refund these."),
    ]


class DisputeView(msgspec.Struct, frozen=True, kw_only=True):
    """A buyer's bank wants the money back, or asks about it."""

    id: Annotated[str, Meta(description="At Stripe.", examples=["du_1SRf2mJ4"])]
    order_id: uuid.UUID
    user_id: uuid.UUID
    payment_intent: str | None
    amount: int
    currency: Annotated[str, Meta(examples=["eur"])]
    state: Annotated[
        DisputeState, Meta(description="`open` and `lost` hold the amount; `inquiry` does not.")
    ]
    reason: Annotated[str | None, Meta(examples=["fraudulent"])]
    is_answer_due: Annotated[
        bool, Meta(description="The bank waits for evidence, which is given in Stripe's dashboard.")
    ]
    evidence_due_at: Annotated[
        datetime | None, Meta(description="Without an answer by then the dispute is lost.")
    ]
    acknowledged_at: Annotated[datetime | None, Meta(description="An admin knows of it.")]
    created_at: datetime
    updated_at: datetime


class FraudWarningView(msgspec.Struct, frozen=True, kw_only=True):
    """A bank's early warning that a payment was fraud. Most become disputes, with their fee."""

    id: Annotated[str, Meta(description="At Stripe.", examples=["issfr_1SRf2mJ4"])]
    order_id: uuid.UUID
    user_id: uuid.UUID
    payment_intent: str | None
    fraud_type: Annotated[str, Meta(examples=["made_with_stolen_card"])]
    is_open: Annotated[
        bool,
        Meta(description="A full refund would still avoid the dispute, and nobody has decided."),
    ]
    amount_left: Annotated[int, Meta(description="What `POST /v1/admin/refunds` would refund.")]
    currency: Annotated[str, Meta(examples=["eur"])]
    acknowledged_at: Annotated[datetime | None, Meta(description="An admin knows of it.")]
    created_at: datetime
    updated_at: datetime


class Acknowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why nothing more has to be done."""

    reason: ActReason


class DecideReview(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`accepted`: the payment is right, and the order's credits are given. `rejected`: its money
    goes back; where nothing was paid the order ends."""

    decision: ReviewDecision
    reason: ActReason


class CreateAdminRefund(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money returned, whatever was spent of the credits; what is missing becomes debt."""

    order_id: uuid.UUID
    amount: RefundAmount | None = None
    payment_intent: PaymentIntentId | None = None
    reason: ActReason


def event_view(event: StripeEvent) -> EventView:
    return msgspec.convert(event, EventView, from_attributes=True)


def event_detail_view(event: StripeEvent) -> EventDetailView:
    return msgspec.convert(event, EventDetailView, from_attributes=True)


def order_view(order: Order) -> AdminOrderView:
    return AdminOrderView(
        **msgspec.structs.asdict(payment_view(order)),
        user_id=order.user_id,
        pack_version=order.pack_version,
        version=order.version,
        attempt=order.attempt,
        review_reason=order.review_reason,
        session_id=order.session_id,
        payment_intent=order.provider_payment_id,
        customer_id=order.customer_id,
        price_id=order.price_id,
    )


def order_detail_view(
    order: Order, returns: list[Return], others: list[OrderPayment]
) -> AdminOrderDetailView:
    return AdminOrderDetailView(
        **msgspec.structs.asdict(order_view(order)),
        refunds=[refund_view(each) for each in returns],
        other_payments=[
            OtherPaymentView(
                payment_intent=each.provider_payment_id,
                session_id=each.session_id,
                amount_total=each.amount_total,
                amount_refunded=each.amount_returned,
            )
            for each in others
        ],
    )


def dispute_view(dispute: OrderDispute) -> DisputeView:
    return DisputeView(
        id=dispute.dispute_id,
        order_id=dispute.order_id,
        user_id=dispute.user_id,
        payment_intent=dispute.provider_payment_id,
        amount=dispute.amount,
        currency=dispute.currency,
        state=dispute.state,
        reason=dispute.reason,
        is_answer_due=dispute.is_answer_due,
        evidence_due_at=dispute.evidence_due_at,
        acknowledged_at=dispute.acknowledged_at,
        created_at=dispute.created_at,
        updated_at=dispute.updated_at,
    )


def fraud_warning_view(warning: OrderFraudWarning) -> FraudWarningView:
    return FraudWarningView(
        id=warning.warning_id,
        order_id=warning.order_id,
        user_id=warning.user_id,
        payment_intent=warning.provider_payment_id,
        fraud_type=warning.fraud_type,
        is_open=warning.is_open,
        amount_left=warning.amount_left,
        currency=warning.currency,
        acknowledged_at=warning.acknowledged_at,
        created_at=warning.created_at,
        updated_at=warning.updated_at,
    )
