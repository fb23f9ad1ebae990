"""Refunds: whole or in part, at once or later, and those that fail after all."""

import stripe

from sandbox.stripe import fraud_warnings
from sandbox.stripe.common import Params, get, named, new_metadata, update_fields
from sandbox.stripe.disputes import HARMLESS
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public, snapshot
from sandbox.stripe.errors import invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import PRIVATE, Obj

# What has gone back, or is on its way.
COUNTING = frozenset({"pending", "requires_action", "succeeded"})


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    charge = _charge(box, params)
    amount = _amount(box, charge, params)
    method = charge[PRIVATE]["method"]
    pending = (
        box.tuning.refunds_pending or method != "card" or charge[PRIVATE]["refund"] == "pending"
    )
    refund = blank(stripe.Refund, "refund", new_id("re_3" if method == "card" else "pyr_1"))
    refund |= {
        "amount": amount,
        "charge": charge["id"],
        "created": box.now(),
        "currency": charge["currency"],
        "destination_details": {"type": method},
        "metadata": new_metadata(params),
        "payment_intent": charge["payment_intent"],
        "pending_reason": "processing" if pending else None,
        "reason": params.get("reason"),
        "status": "pending" if pending else "succeeded",
    }
    # Fields that the API leaves out where they do not apply.
    for name in (
        "failure_balance_transaction",
        "failure_reason",
        "instructions_email",
        "next_action",
        "pending_reason",
    ):
        if refund[name] is None:
            del refund[name]
    box.store.save(refund)
    box.emit(cause, "refund.created", refund)
    _recount(box, charge)
    box.emit(cause, "charge.refunded", charge)
    fraud_warnings.settle(box, cause, charge)
    answer = snapshot(refund)
    # Stripe's test methods end otherwise "later"; after the answer is late enough.
    match charge[PRIVATE]["refund"]:
        case "pending":
            settle(box, cause, refund, "succeeded")
        case "fails":
            settle(box, cause, refund, "failed")
    return answer


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "refund", id_))


def update(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    refund = get(box, "refund", id_)
    before = snapshot(refund)
    update_fields(refund, params, ())
    box.store.save(refund)
    _updated(box, cause, refund, before)
    return public(refund)


def cancel(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    refund = get(box, "refund", id_)
    raise invalid(
        f"You cannot cancel this refund because it has a status of {refund['status']}. Only a "
        "refund with a status of requires_action can be canceled.",
    )


def list_refunds(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "refund", params, "/v1/refunds", by=("payment_intent", "charge"))


def settle(
    box: Sandbox,
    cause: Cause,
    refund: Obj,
    status: str,
    *,
    reason: str = "expired_or_canceled_card",
) -> None:
    """A later end: `succeeded`, `failed` (also after it had succeeded), or `canceled`."""
    before = snapshot(refund)
    refund["status"] = status
    refund.pop("pending_reason", None)
    if status == "failed":
        refund["failure_reason"] = reason
    box.store.save(refund)
    _recount(box, get(box, "charge", refund["charge"]))
    _updated(box, cause, refund, before)
    if status == "failed":
        box.emit(cause, "refund.failed", refund)


def _updated(box: Sandbox, cause: Cause, refund: Obj, before: Obj) -> None:
    box.emit(cause, "refund.updated", refund, before=before)
    box.emit(cause, "charge.refund.updated", refund, before=before)


def _recount(box: Sandbox, charge: Obj) -> None:
    refunds = box.store.where("refund", "charge", charge["id"])
    back = sum(refund["amount"] for refund in refunds if refund["status"] in COUNTING)
    charge["amount_refunded"] = back
    charge["refunded"] = back >= charge["amount"]
    box.store.save(charge)


def _charge(box: Sandbox, params: Params) -> Obj:
    if "charge" in params:
        return named(box, "charge", params["charge"], "charge")
    if "payment_intent" not in params:
        raise invalid(
            "One of the following params should be provided for this request: "
            "payment_intent or charge."
        )
    intent = named(box, "payment_intent", params["payment_intent"], "payment_intent")
    if intent["latest_charge"] is None or intent["status"] != "succeeded":
        raise invalid(
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
            code="payment_intent_unexpected_state",
            param="payment_intent",
        )
    return get(box, "charge", intent["latest_charge"])


def _amount(box: Sandbox, charge: Obj, params: Params) -> int:
    if charge["status"] != "succeeded":
        raise invalid(f"Charge {charge['id']} has not been paid.", param="charge")
    left: int = charge["amount"] - charge["amount_refunded"]
    if left <= 0:
        raise invalid(
            f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded"
        )
    disputes = box.store.where("dispute", "charge", charge["id"])
    if any(dispute["status"] not in HARMLESS for dispute in disputes):
        raise invalid(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.",
            code="charge_disputed",
        )
    amount: int = params.get("amount", left)
    if amount < 1:
        raise invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > left:
        raise invalid(
            f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})",
            param="amount",
        )
    return amount
