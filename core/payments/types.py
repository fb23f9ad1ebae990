"""Packs, orders and refunds as the routes see them, and Stripe's objects as far as we read them.

Amounts of money are in the currency's smallest unit; credits are whole.
"""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

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


class RefundState(StrEnum):
    REQUESTED = "requested"
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUSED = "refused"


class RefundOrigin(StrEnum):
    BUYER = "buyer"
    ADMIN = "admin"
    STRIPE = "stripe"


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
    amount_gone: int
    credits_reversed: int
    created_at: datetime
    session_id: str | None
    session_url: str | None
    price_id: str | None
    customer_id: str | None
    payment_intent: str | None
    amount_total: int | None
    failure_reason: str | None
    review_reason: str | None
    invoice_id: str | None
    invoice_url: str | None
    invoice_pdf_url: str | None
    receipt_url: str | None
    paid_at: datetime | None


class Refund(msgspec.Struct, frozen=True):
    id: uuid.UUID
    order_id: uuid.UUID
    user_id: uuid.UUID
    amount: int
    currency: str
    origin: RefundOrigin
    reason: str | None
    state: RefundState
    attempt: int
    failure_reason: str | None
    created_at: datetime
    updated_at: datetime


class StripeEvent(msgspec.Struct, frozen=True):
    """A line of the log; `outcome` says what it led to once it was handled."""

    id: str
    type: str
    object_id: str | None
    created: datetime
    source: str
    received_at: datetime
    handled_at: datetime | None
    outcome: str | None
    order_id: uuid.UUID | None
    replays: int
    payload: dict[str, Any] | None = None


class StripeRefund(msgspec.Struct, frozen=True):
    id: str
    amount: int
    status: str
    reason: str | None = None
    failure_reason: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class StripeDispute(msgspec.Struct, frozen=True):
    id: str
    amount: int
    status: str
    reason: str | None = None


class LinePrice(msgspec.Struct, frozen=True):
    id: str
    unit_amount: int | None = None
    currency: str | None = None


class LineItem(msgspec.Struct, frozen=True):
    quantity: int | None = None
    price: LinePrice | None = None


class LineItems(msgspec.Struct, frozen=True):
    data: list[LineItem] = []


class Session(msgspec.Struct, frozen=True):
    """A Checkout Session. https://docs.stripe.com/api/checkout/sessions/object"""

    id: str
    status: str | None = None
    payment_status: str | None = None
    mode: str | None = None
    url: str | None = None
    client_reference_id: str | None = None
    customer: str | None = None
    payment_intent: str | None = None
    invoice: str | None = None
    currency: str | None = None
    amount_subtotal: int | None = None
    amount_total: int | None = None
    created: int = 0
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    line_items: LineItems | None = None

    @property
    def is_paid(self) -> bool:
        return self.status == "complete" and self.payment_status in {"paid", "no_payment_required"}


class Charge(msgspec.Struct, frozen=True):
    id: str
    receipt_url: str | None = None


class LastError(msgspec.Struct, frozen=True):
    code: str | None = None
    decline_code: str | None = None


class PaymentIntent(msgspec.Struct, frozen=True):
    id: str
    status: str | None = None
    latest_charge: str | None = None
    last_payment_error: LastError | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class Invoice(msgspec.Struct, frozen=True):
    id: str
    hosted_invoice_url: str | None = None
    invoice_pdf: str | None = None


class Price(msgspec.Struct, frozen=True):
    id: str
    unit_amount: int | None = None
    currency: str | None = None
    lookup_key: str | None = None
    product: str | None = None
