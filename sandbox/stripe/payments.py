"""PaymentIntents and charges, and the test payment methods that decide what becomes of them."""

import hashlib
from typing import Any

import stripe

from sandbox.stripe import disputes
from sandbox.stripe.common import (
    Params,
    copy_fields,
    get,
    merged_metadata,
    named,
    new_metadata,
    update_fields,
)
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public, snapshot
from sandbox.stripe.errors import ApiError, invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import PRIVATE, Obj

AMOUNT_MIN = (
    50  # of most currencies: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts
)

# https://docs.stripe.com/testing, those of Stripe's own test methods that the sandbox acts out.
_CARD = "pm_card_visa"
_DECLINES = {
    "pm_card_visa_chargeDeclined": "generic_decline",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_visa_chargeDeclinedLostCard": "lost_card",
}
_DISPUTES = {
    "pm_card_createDispute": "fraudulent",
    "pm_card_createDisputeProductNotReceived": "product_not_received",
    "pm_card_createDisputeInquiry": "general",
}
_REFUNDS = {"pm_card_pendingRefund": "pending", "pm_card_refundFail": "fails"}
METHODS = frozenset({_CARD, "pm_card_mastercard", *_DECLINES, *_DISPUTES, *_REFUNDS})
BANK_DEBIT = "sepa_debit"


# -- the API ----------------------------------------------------------------------------------


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    if "customer" in params:
        named(box, "customer", params["customer"], "customer")
    if params["amount"] < AMOUNT_MIN:
        raise invalid(
            f"Amount must be at least $0.50 {params['currency']}",
            code="amount_too_small",
            param="amount",
        )
    intent = new_intent(
        box,
        cause,
        amount=params["amount"],
        currency=params["currency"],
        customer=params.get("customer"),
        metadata=new_metadata(params),
    )
    copy_fields(intent, params, ("description", "receipt_email", "setup_future_usage", "shipping"))
    if "payment_method" in params:
        intent["payment_method"] = params["payment_method"]
        intent["status"] = "requires_confirmation"
    box.store.save(intent)
    if params.get("confirm"):
        return confirm(box, cause, {}, intent["id"])
    return public(intent)


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "payment_intent", id_))


def update(box: Sandbox, _cause: Cause, params: Params, id_: str) -> Obj:
    intent = get(box, "payment_intent", id_)
    update_fields(intent, params, ("description", "receipt_email", "payment_method"))
    return public(box.store.save(intent))


def list_intents(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "payment_intent", params, "/v1/payment_intents", by=("customer",))


def confirm(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    intent = get(box, "payment_intent", id_)
    _require(intent, "confirm", {"requires_payment_method", "requires_confirmation"})
    method = params.get("payment_method") or intent["payment_method"]
    if method is None:
        raise invalid(
            "You cannot confirm this PaymentIntent because it's missing a payment method.",
            code="payment_intent_unexpected_state",
        )
    if method not in METHODS:
        raise invalid(
            f"No such PaymentMethod: '{method}'", code="resource_missing", param="payment_method"
        )
    if method in _DECLINES:
        charge = decline(box, cause, intent, _DECLINES[method])
        raise ApiError(
            402,
            "Your card was declined.",
            type_="card_error",
            code="card_declined",
            decline_code=_DECLINES[method],
            charge=charge["id"],
            payment_intent=public(intent),
        )
    charge = succeed(box, cause, intent, card=method)
    charge[PRIVATE]["refund"] = _REFUNDS.get(method)
    box.store.save(charge)
    if method in _DISPUTES:
        disputes.open_dispute(
            box,
            cause,
            charge,
            amount=charge["amount"],
            reason=_DISPUTES[method],
            inquiry=method.endswith("Inquiry"),
        )
    return public(intent)


def cancel(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    intent = get(box, "payment_intent", id_)
    _require(intent, "cancel", {"requires_payment_method", "requires_confirmation"})
    intent["status"] = "canceled"
    intent["canceled_at"] = box.now()
    intent["cancellation_reason"] = params.get("cancellation_reason")
    box.store.save(intent)
    box.emit(cause, "payment_intent.canceled", intent)
    return public(intent)


def retrieve_charge(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "charge", id_))


def update_charge(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    charge = get(box, "charge", id_)
    before = snapshot(charge)
    update_fields(charge, params, ("customer", "description", "receipt_email", "fraud_details"))
    box.store.save(charge)
    box.emit(cause, "charge.updated", charge, before=before)
    return public(charge)


def list_charges(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "charge", params, "/v1/charges", by=("payment_intent", "customer"))


def _require(intent: Obj, verb: str, states: set[str]) -> None:
    if intent["status"] not in states:
        raise ApiError(
            400,
            f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
            payment_intent=public(intent),
        )


# -- the life of a payment --------------------------------------------------------------------


def new_intent(
    box: Sandbox,
    cause: Cause,
    *,
    amount: int,
    currency: str,
    customer: str | None,
    metadata: dict[str, str],
    description: str | None = None,
    receipt_email: str | None = None,
) -> Obj:
    id_ = new_id("pi_3")
    intent = blank(stripe.PaymentIntent, "payment_intent", id_)
    intent |= {
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
        "capture_method": "automatic_async",
        "client_secret": f"{id_}_secret_{new_id('', 25)}",
        "confirmation_method": "automatic",
        "created": box.now(),
        "currency": currency.lower(),
        "customer": customer,
        "description": description,
        "livemode": False,
        "metadata": merged_metadata({}, metadata),
        "payment_method_options": {},
        "payment_method_types": ["card", BANK_DEBIT],
        "receipt_email": receipt_email,
        "status": "requires_payment_method",
    }
    box.store.save(intent)
    box.emit(cause, "payment_intent.created", intent)
    return intent


def succeed(box: Sandbox, cause: Cause, intent: Obj, *, card: str | None = None) -> Obj:
    """A card that pays at once; `card` names one that several people may have. The charge."""
    charge = _new_charge(box, cause, intent, method="card", status="succeeded", card=card)
    _received(box, cause, intent, charge)
    return charge


def begin_debit(box: Sandbox, cause: Cause, intent: Obj) -> Obj:
    """A bank debit: nothing is known for days. The charge."""
    charge = _new_charge(box, cause, intent, method=BANK_DEBIT, status="pending")
    intent["status"] = "processing"
    intent["latest_charge"] = charge["id"]
    intent["payment_method"] = charge["payment_method"]
    box.store.save(intent)
    box.emit(cause, "charge.pending", charge)
    box.emit(cause, "payment_intent.processing", intent)
    return charge


def end_debit(box: Sandbox, cause: Cause, intent: Obj, *, succeeded: bool) -> Obj:
    charge = get(box, "charge", intent["latest_charge"])
    if succeeded:
        charge |= {
            "status": "succeeded",
            "paid": True,
            "captured": True,
            "amount_captured": charge["amount"],
        }
        _received(box, cause, intent, charge)
    else:
        _failed(box, cause, intent, charge, decline_code=None)
    return charge


def decline(box: Sandbox, cause: Cause, intent: Obj, decline_code: str) -> Obj:
    charge = _new_charge(box, cause, intent, method="card", status="failed")
    _failed(box, cause, intent, charge, decline_code=decline_code)
    return charge


def _received(box: Sandbox, cause: Cause, intent: Obj, charge: Obj) -> None:
    intent |= {
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "payment_method": charge["payment_method"],
        "status": "succeeded",
    }
    box.store.save(charge)
    box.store.save(intent)
    box.emit(cause, "charge.succeeded", charge)
    box.emit(cause, "payment_intent.succeeded", intent)


def _failed(
    box: Sandbox, cause: Cause, intent: Obj, charge: Obj, *, decline_code: str | None
) -> None:
    """Without `decline_code` it was a bank debit."""
    if decline_code is None:
        code, message = "debit_not_authorized", "The debit was not authorized."
    else:
        code, message = "card_declined", "Your card was declined."
    charge |= {
        "status": "failed",
        "paid": False,
        "failure_code": code,
        "failure_message": message,
    }
    error: dict[str, Any] = {
        "type": "card_error",
        "code": code,
        "message": message,
        "charge": charge["id"],
    }
    if decline_code is not None:
        error["decline_code"] = decline_code
    intent |= {
        "last_payment_error": error,
        "latest_charge": charge["id"],
        "payment_method": None,
        "status": "requires_payment_method",
    }
    box.store.save(charge)
    box.store.save(intent)
    box.emit(cause, "charge.failed", charge)
    box.emit(cause, "payment_intent.payment_failed", intent)


def fingerprint(card: str) -> str:
    """The same for the same card in all of an account, whoever pays with it."""
    return hashlib.sha256(card.encode()).hexdigest()[:16]


def _new_charge(
    box: Sandbox, cause: Cause, intent: Obj, *, method: str, status: str, card: str | None = None
) -> Obj:
    id_ = new_id("ch_3" if method == "card" else "py_3")
    paid = status == "succeeded"
    details: dict[str, Any] = {"type": method}
    if method == "card":
        details["card"] = {
            "brand": "visa",
            "country": "US",
            # Everybody has a card of their own, unless it is named.
            "fingerprint": fingerprint(card or intent["customer"] or intent["id"]),
            "funding": "credit",
            "last4": "4242",
        }
    else:
        details[method] = {"bank_code": "37040044", "country": "DE", "last4": "3000"}
    charge = blank(stripe.Charge, "charge", id_, without=("refunds",))
    charge |= {
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if paid else 0,
        "amount_refunded": 0,
        "billing_details": {
            "address": None,
            "email": intent["receipt_email"],
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        "captured": paid,
        "created": box.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "paid": status != "failed",
        "payment_intent": intent["id"],
        "payment_method": new_id("pm_1"),
        "payment_method_details": details,
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_url": f"{cause.base_url}/receipts/{id_}",
        "refunded": False,
        "status": status,
        PRIVATE: {"method": method, "refund": None},
    }
    return box.store.save(charge)
