"""Disputes and inquiries. Banks open them: here `POST /__control/disputes` does."""

import stripe

from sandbox.stripe import fraud_warnings
from sandbox.stripe.common import Params, get, update_fields
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public, snapshot
from sandbox.stripe.errors import invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import PRIVATE, Obj

EVIDENCE_SECONDS = 7 * 86_400
_INQUIRY = frozenset({"warning_needs_response", "warning_under_review", "warning_closed"})
# The charge can be refunded in spite of such a dispute.
HARMLESS = _INQUIRY | {"won", "prevented"}
_CLOSED = frozenset({"won", "lost", "warning_closed", "prevented"})
STATUSES = HARMLESS | {
    "appeal_needs_response",
    "appeal_under_review",
    "lost",
    "needs_response",
    "under_review",
}


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "dispute", id_))


def list_disputes(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "dispute", params, "/v1/disputes", by=("payment_intent", "charge"))


def update(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    """Stripe's test mode decides by the text: `winning_evidence`, `losing_evidence`."""
    dispute = get(box, "dispute", id_)
    if dispute["status"] in _CLOSED:
        raise invalid("This dispute is already closed", param="dispute")
    before = snapshot(dispute)
    update_fields(dispute, {"metadata": params.get("metadata", {})}, ())
    dispute["evidence"] |= params.get("evidence", {})
    dispute["evidence_details"]["has_evidence"] = bool(params.get("evidence"))
    if not params.get("submit", True):
        box.store.save(dispute)
        box.emit(cause, "charge.dispute.updated", dispute, before=before)
        return public(dispute)
    dispute["evidence_details"]["submission_count"] += 1
    inquiry = dispute["status"] in _INQUIRY
    move(box, cause, dispute, "warning_under_review" if inquiry else "under_review")
    answer = snapshot(dispute)
    match dispute["evidence"]["uncategorized_text"]:
        case "winning_evidence":
            move(box, cause, dispute, "warning_closed" if inquiry else "won")
        case "losing_evidence":
            move(box, cause, dispute, "lost")
    return answer


def close(box: Sandbox, cause: Cause, _params: Params, id_: str) -> Obj:
    """The merchant accepts the dispute: it is lost."""
    dispute = get(box, "dispute", id_)
    if dispute["status"] in _CLOSED:
        raise invalid("This dispute is already closed", param="dispute")
    move(box, cause, dispute, "lost")
    return public(dispute)


def open_dispute(
    box: Sandbox, cause: Cause, charge: Obj, *, amount: int, reason: str, inquiry: bool
) -> Obj:
    dispute = blank(stripe.Dispute, "dispute", new_id("du_1"))
    dispute |= {
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": box.now(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": dict.fromkeys(stripe.Dispute.Evidence.__annotations__),
        "evidence_details": {
            "due_by": box.now() + EVIDENCE_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {"type": charge[PRIVATE]["method"]},
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }
    box.store.save(dispute)
    charge["disputed"] = True
    box.store.save(charge)
    box.emit(cause, "charge.dispute.created", dispute)
    if not inquiry:
        _withdraw(box, cause, dispute)
    fraud_warnings.settle(box, cause, charge)
    return dispute


def move(box: Sandbox, cause: Cause, dispute: Obj, status: str) -> None:
    """Any status at any time; the events and the money follow."""
    before = snapshot(dispute)
    dispute["status"] = status
    dispute["is_charge_refundable"] = status in HARMLESS
    box.store.save(dispute)
    closed = status in _CLOSED
    type_ = "charge.dispute.closed" if closed else "charge.dispute.updated"
    box.emit(cause, type_, dispute, before=before)
    withdrawn = bool(dispute["balance_transactions"]) and not _reinstated(dispute)
    if status not in HARMLESS and not withdrawn:
        _withdraw(box, cause, dispute)
    if status in {"won", "prevented"} and withdrawn:
        _add_balance_transaction(box, dispute, dispute["amount"])
        box.emit(cause, "charge.dispute.funds_reinstated", dispute)


def _withdraw(box: Sandbox, cause: Cause, dispute: Obj) -> None:
    _add_balance_transaction(box, dispute, -dispute["amount"])
    box.emit(cause, "charge.dispute.funds_withdrawn", dispute)


def _reinstated(dispute: Obj) -> bool:
    return bool(dispute["balance_transactions"][-1]["amount"] > 0)


def _add_balance_transaction(box: Sandbox, dispute: Obj, amount: int) -> None:
    fee = 1500 if amount < 0 else 0
    dispute["balance_transactions"].append(
        {
            "id": new_id("txn_1"),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": box.now(),
            "created": box.now(),
            "currency": dispute["currency"],
            "description": f"Chargeback for {dispute['charge']}",
            "exchange_rate": None,
            "fee": fee,
            "fee_details": [],
            "net": amount - fee,
            "reporting_category": "dispute" if amount < 0 else "dispute_reversal",
            "source": dispute["id"],
            "status": "available",
            "type": "adjustment",
        }
    )
    box.store.save(dispute)
