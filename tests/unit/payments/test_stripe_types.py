"""What the library calls optional may be null in what we read."""

from typing import Any, get_args

import msgspec
import pytest
import stripe

from core.payments.stripe import types as theirs
from core.payments.stripe.types import as_struct

PAIRS: list[tuple[type[msgspec.Struct], Any]] = [
    (theirs.Session, stripe.checkout.Session),
    (theirs.TotalDetails, stripe.checkout.Session.TotalDetails),
    (theirs.LineItem, stripe.LineItem),
    (theirs.Price, stripe.Price),
    (theirs.PaymentIntent, stripe.PaymentIntent),
    (theirs.LastError, stripe.PaymentIntent.LastPaymentError),
    (theirs.Charge, stripe.Charge),
    (theirs.PaymentMethod, stripe.Charge.PaymentMethodDetails),
    (theirs.Card, stripe.Charge.PaymentMethodDetails.Card),
    (theirs.Invoice, stripe.Invoice),
    (theirs.StripeRefund, stripe.Refund),
    (theirs.StripeDispute, stripe.Dispute),
    (theirs.EvidenceDetails, stripe.Dispute.EvidenceDetails),
    (theirs.StripeFraudWarning, stripe.radar.EarlyFraudWarning),
]
_REQUIRED = {"id": "x", "amount": 1, "charge": "ch_1", "status": "succeeded"}


def _optional(described: Any) -> set[str]:
    return {
        name
        for name, hint in described.__annotations__.items()
        if type(None) in get_args(hint) or "None" in str(hint)
    }


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (ours, field.name)
        for ours, described in PAIRS
        for field in msgspec.structs.fields(ours)
        if field.name in _optional(described)
    ],
)
def test_null_where_the_library_says_optional(ours: type[msgspec.Struct], name: str) -> None:
    known = {field.name for field in msgspec.structs.fields(ours)}
    given = {key: value for key, value in _REQUIRED.items() if key in known}
    read = as_struct({**given, name: None}, ours)
    assert getattr(read, name) in (None, {}, [])


@pytest.mark.parametrize(("ours", "described"), PAIRS)
def test_what_we_read_is_there(ours: type[msgspec.Struct], described: Any) -> None:
    """An upgrade of the library may rename or drop a field."""
    names = {field.name for field in msgspec.structs.fields(ours)}
    assert names <= set(described.__annotations__)
