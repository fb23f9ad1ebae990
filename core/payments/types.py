"""Packs, orders and returns of money as the rest of the product sees them.

Amounts of money are in the currency's smallest unit; credits are whole.
"""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec


class OrderState(StrEnum):
    CREATED = "created"
    OPEN = "open"
    PROCESSING = "processing"
    FAILED = "failed"
    EXPIRED = "expired"
    REVIEW = "review"
    PAID = "paid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    CHARGED_BACK = "charged_back"


UNSETTLED: Final = frozenset({OrderState.CREATED, OrderState.OPEN, OrderState.PROCESSING})
PAYABLE: Final = frozenset({OrderState.CREATED, OrderState.OPEN})
RETRYABLE: Final = frozenset({OrderState.FAILED, OrderState.EXPIRED})


class ReturnState(StrEnum):
    REQUESTED = "requested"
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUSED = "refused"


class ReviewReason(StrEnum):
    """How a payment differs from its order, so that an admin has to review it."""

    AMOUNT_SUBTOTAL = "amount_subtotal"
    BUYING_STOPPED = "buying_stopped"  # open or lost disputes of this buyer or this card
    CURRENCY = "currency"
    LINE_ITEMS = "line_items"
    MODE = "mode"
    OTHER_PAYMENT = "other_payment"  # its payment is another order's
    OTHER_ORDER = "other_order"
    OTHER_USER = "other_user"
    PAID_TWICE = "paid_twice"
    PRICE = "price"
    QUANTITY = "quantity"


class ReviewDecision(StrEnum):
    """What an admin has decided about the session in review."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class ReturnOrigin(StrEnum):
    BUYER = "buyer"
    ADMIN = "admin"
    STRIPE = "stripe"  # made in the provider's dashboard


class DisputeState(StrEnum):
    """Only an open and a lost one hold their amount."""

    INQUIRY = "inquiry"
    OPEN = "open"
    WON = "won"
    LOST = "lost"
    PREVENTED = "prevented"


class Pack(msgspec.Struct, frozen=True):
    slug: str
    version: int
    title: str
    credits: int
    unit_amount: int
    currency: str
    lookup_key: str


class Order(msgspec.Struct, frozen=True):
    id: uuid.UUID
    user_id: uuid.UUID
    pack_slug: str
    pack_version: int
    lookup_key: str
    credits: int
    unit_amount: int
    currency: str
    state: OrderState
    version: int
    attempt: int
    attempted_at: datetime
    expires_at: datetime
    amount_returned: int
    credits_reversed: int
    created_at: datetime
    session_id: str | None
    session_url: str | None
    price_id: str | None
    customer_id: str | None
    provider_payment_id: str | None
    amount_total: int | None
    failure_reason: str | None
    review_reason: ReviewReason | None
    invoice_id: str | None
    invoice_url: str | None
    invoice_pdf_url: str | None
    receipt_url: str | None
    paid_at: datetime | None
    payment_method: str | None
    review_decision: ReviewDecision | None
    review_session_id: str | None
    is_on_sale: bool
    """Whether the pack is still sold at this order's price."""

    def decision_on(self, session_id: str) -> ReviewDecision | None:
        """A decision counts for the session that the admin has seen."""
        return self.review_decision if session_id == self.review_session_id else None


class OrderFilters(msgspec.Struct, frozen=True, kw_only=True):
    """`in_review` also finds orders that are paid and still have to be reviewed."""

    states: tuple[OrderState, ...] = ()
    user_id: uuid.UUID | None = None
    in_review: bool = False
    with_invoice: bool = False


class Return(msgspec.Struct, frozen=True):
    """Money of an order that goes back to its buyer."""

    id: uuid.UUID
    order_id: uuid.UUID
    user_id: uuid.UUID
    amount: int
    currency: str
    origin: ReturnOrigin
    reason: str | None
    state: ReturnState
    attempt: int
    provider_payment_id: str | None
    provider_return_id: str | None
    failure_reason: str | None
    created_at: datetime
    updated_at: datetime


class OrderPayment(msgspec.Struct, frozen=True):
    """A second payment of an order, for which nothing was given."""

    provider_payment_id: str
    session_id: str
    amount_total: int
    amount_returned: int


class OrderDispute(msgspec.Struct, frozen=True):
    """A dispute as admins see it. `provider_payment_id` names it in the provider's dashboard."""

    dispute_id: str
    order_id: uuid.UUID
    user_id: uuid.UUID
    provider_payment_id: str | None
    amount: int
    currency: str
    state: DisputeState
    reason: str | None
    is_answer_due: bool
    evidence_due_at: datetime | None
    acknowledged_at: datetime | None
    created_at: datetime
    updated_at: datetime


class OrderFraudWarning(msgspec.Struct, frozen=True):
    """A bank's report of fraud, for an order of ours. `is_open`: something can be done about it,
    and nobody has."""

    warning_id: str
    order_id: uuid.UUID
    user_id: uuid.UUID
    provider_payment_id: str | None
    fraud_type: str
    is_actionable: bool
    is_open: bool
    amount_left: int
    currency: str
    acknowledged_at: datetime | None
    created_at: datetime
    updated_at: datetime


class PaidSession(msgspec.Struct, frozen=True):
    """The session that an order was paid by."""

    session_id: str
    amount_total: int


class DayDifference(msgspec.Struct, frozen=True):
    """A paid session, return or dispute that stands on one side only, or with another amount."""

    id: str
    theirs: int | None
    ours: int | None


class Synced(msgspec.Struct, frozen=True):
    """What one sync changed. `credits_reversed` is the difference, negative when restored."""

    state: OrderState
    was: OrderState
    granted: bool
    credits_reversed: int
    review_reason: ReviewReason | None
