"""Stripe's objects, as far as we read them, in Stripe's words. They do not leave this folder.

Amounts of money are in the currency's smallest unit; times are seconds since 1970.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from core.payments.provider import ProviderAnswerError

Struct = TypeVar("Struct", bound=msgspec.Struct)


class StripeEvent(msgspec.Struct, frozen=True):
    """A line of our log of Stripe's events; `outcome` is its result, once it was handled."""

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


class ReceivedEvent(msgspec.Struct, frozen=True):
    """An event as Stripe sent it. https://docs.stripe.com/api/events/object"""

    id: str
    type: str
    created: float
    object_id: str | None
    payload: dict[str, Any]


class Subject(msgspec.Struct, frozen=True):
    """What an event is about: the ids by which its order is found."""

    id: str | None = None
    client_reference_id: str | None = None
    payment_intent: str | None = None
    charge: str | None = None


class Price(msgspec.Struct, frozen=True):
    id: str
    unit_amount: int | None = None
    currency: str | None = None
    tax_behavior: str | None = None


class TotalDetails(msgspec.Struct, frozen=True):
    amount_tax: int | None = None


class LineItem(msgspec.Struct, frozen=True):
    quantity: int | None = None
    price: Price | None = None


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
    total_details: TotalDetails | None = None

    @property
    def is_paid(self) -> bool:
        return self.status == "complete" and self.payment_status in {"paid", "no_payment_required"}


class LastError(msgspec.Struct, frozen=True):
    code: str | None = None
    decline_code: str | None = None


class PaymentIntent(msgspec.Struct, frozen=True):
    id: str
    status: str | None = None
    latest_charge: str | None = None
    last_payment_error: LastError | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class Card(msgspec.Struct, frozen=True):
    fingerprint: str | None = None


class PaymentMethod(msgspec.Struct, frozen=True):
    type: str | None = None
    card: Card | None = None


class Charge(msgspec.Struct, frozen=True):
    id: str
    receipt_url: str | None = None
    payment_intent: str | None = None
    payment_method_details: PaymentMethod | None = None


class Invoice(msgspec.Struct, frozen=True):
    id: str
    hosted_invoice_url: str | None = None
    invoice_pdf: str | None = None


class StripeRefund(msgspec.Struct, frozen=True):
    id: str
    amount: int
    status: str | None = None
    reason: str | None = None
    failure_reason: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class EvidenceDetails(msgspec.Struct, frozen=True):
    due_by: int | None = None


class StripeDispute(msgspec.Struct, frozen=True):
    id: str
    amount: int
    status: str
    reason: str | None = None
    evidence_details: EvidenceDetails | None = None


class StripeFraudWarning(msgspec.Struct, frozen=True):
    """https://docs.stripe.com/api/radar/early_fraud_warnings/object"""

    id: str
    charge: str
    actionable: bool = True
    fraud_type: str = "unknown"
    payment_intent: str | None = None
    created: int = 0


def received_event(payload: dict[str, Any]) -> ReceivedEvent:
    object_id = payload["data"]["object"].get("id")
    return ReceivedEvent(
        payload["id"],
        type=payload["type"],
        created=payload["created"],
        object_id=object_id if isinstance(object_id, str) else None,
        payload=payload,
    )


_REFERENCES: Final = frozenset({"payment_intent", "customer", "invoice", "latest_charge", "charge"})
_MAPPINGS: Final = frozenset({"metadata", "line_items"})


def as_struct(value: Mapping[str, Any], cls: type[Struct]) -> Struct:
    """The fields we read. An expanded object is reduced to its id where we want the id.

    Raises: ProviderAnswerError.
    """
    flat = {
        name: field["id"]
        if name in _REFERENCES and isinstance(field, dict) and "id" in field
        else field
        for name, field in value.items()
        if name in cls.__struct_fields__ and not (field is None and name in _MAPPINGS)
    }
    try:
        return msgspec.convert(flat, cls)
    except msgspec.ValidationError as error:
        # The text names a field and kinds of values, never a value.
        raise ProviderAnswerError(f"{cls.__name__}: {error}") from error
