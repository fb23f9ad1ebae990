"""Payments as the buyer sees them. Nothing here names Stripe's own objects.

Money is in the currency's smallest unit.
"""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from api.schemas.packs import SLUG_LENGTH_MAX
from core.payments.types import Order, OrderState
from core.words.say import say


class CreateCheckout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pack. Price and credits come from our catalogue."""

    pack: Annotated[
        str,
        Meta(
            description="Slug from `GET /v1/packs`.",
            max_length=SLUG_LENGTH_MAX,
            examples=["credits_50"],
        ),
    ]


class PaymentView(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its payer sees it: one purchase of one pack, from the first click on."""

    id: uuid.UUID
    pack: Annotated[str, Meta(examples=["credits_50"])]
    credits: Annotated[int, Meta(description="That the pack holds.", examples=[50])]
    refunded_credits: Annotated[
        int, Meta(description="Clawed back for refunds and disputes.", examples=[0])
    ]
    unit_amount: Annotated[int, Meta(description="Before discount and tax.", examples=[1990])]
    amount_total: Annotated[
        int | None, Meta(description="What was paid. Null until then.", examples=[1990])
    ]
    amount_refunded: Annotated[
        int, Meta(description="Refunded, or held by a dispute.", examples=[0])
    ]
    currency: Annotated[str, Meta(description="ISO 4217, lower case.", examples=["eur"])]
    state: Annotated[
        OrderState,
        Meta(
            description="`processing` is pending: a slow method, such as a bank debit, that needs"
            " up to some days; the credits come by themselves."
        ),
    ]
    state_in_words: Annotated[str, Meta(examples=["Paid. The credits are in the account."])]
    failure_reason: Annotated[
        str | None, Meta(description="A stable word.", examples=["insufficient_funds"])
    ]
    created_at: datetime
    paid_at: datetime | None
    expires_at: Annotated[datetime, Meta(description="Until then the payment page can be used.")]
    checkout_url: Annotated[
        str | None,
        Meta(
            description="Stripe's payment page, for the buyer only. Null unless `open`.",
            examples=["https://checkout.stripe.com/c/pay/..."],
        ),
    ]
    invoice_url: str | None
    invoice_pdf_url: str | None
    receipt_url: str | None


class InvoiceView(msgspec.Struct, frozen=True, kw_only=True):
    """Where Stripe keeps invoice and receipt of one payment."""

    payment_id: Annotated[uuid.UUID, Meta(description="See `GET /v1/payments/{id}`.")]
    pack: Annotated[str, Meta(examples=["credits_50"])]
    credits: Annotated[int, Meta(examples=[50])]
    amount_total: Annotated[int | None, Meta(examples=[1990])]
    currency: Annotated[str, Meta(examples=["eur"])]
    paid_at: datetime | None
    invoice_url: str | None
    invoice_pdf_url: str | None
    receipt_url: str | None


class PortalView(msgspec.Struct, frozen=True):
    """Stripe's customer portal. The URL is short-lived: open it at once."""

    url: Annotated[str, Meta(examples=["https://billing.stripe.com/p/session/..."])]


class Received(msgspec.Struct, frozen=True):
    """To the provider: it is stored, do not send it again."""

    received: bool = True


def payment_view(order: Order) -> PaymentView:
    return PaymentView(
        id=order.id,
        pack=order.pack_slug,
        credits=order.credits,
        refunded_credits=order.credits_reversed,
        unit_amount=order.unit_amount,
        amount_total=order.amount_total,
        amount_refunded=order.amount_returned,
        currency=order.currency,
        state=order.state,
        state_in_words=say(f"order_state.{order.state}"),
        failure_reason=order.failure_reason,
        created_at=order.created_at,
        paid_at=order.paid_at,
        expires_at=order.expires_at,
        checkout_url=order.session_url if order.state is OrderState.OPEN else None,
        invoice_url=order.invoice_url,
        invoice_pdf_url=order.invoice_pdf_url,
        receipt_url=order.receipt_url,
    )


def invoice_view(order: Order) -> InvoiceView:
    return InvoiceView(
        payment_id=order.id,
        pack=order.pack_slug,
        credits=order.credits,
        amount_total=order.amount_total,
        currency=order.currency,
        paid_at=order.paid_at,
        invoice_url=order.invoice_url,
        invoice_pdf_url=order.invoice_pdf_url,
        receipt_url=order.receipt_url,
    )
