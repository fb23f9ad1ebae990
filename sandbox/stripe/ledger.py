"""What was paid and what went back, against which a test or a reconciliation counts."""

from typing import Any

from sandbox.stripe.disputes import HARMLESS
from sandbox.stripe.engine import Sandbox
from sandbox.stripe.refunds import COUNTING
from sandbox.stripe.store import Obj


def ledger(box: Sandbox) -> dict[str, Any]:
    """Amounts in the currency's smallest unit; `totals` adds up by currency."""
    payments = [_payment(box, session) for session in box.store.all("checkout.session")]
    paid = [row for row in payments if row["payment_status"] in {"paid", "no_payment_required"}]
    totals: dict[str, dict[str, int]] = {}
    for row in paid:
        sums = totals.setdefault(
            row["currency"], {"payments": 0, "paid": 0, "refunded": 0, "disputed": 0}
        )
        sums["payments"] += 1
        sums["paid"] += row["amount_total"]
        sums["refunded"] += row["refunded"]
        sums["disputed"] += row["disputed"]
    return {"payments": payments, "totals": totals}


def _payment(box: Sandbox, session: Obj) -> dict[str, Any]:
    intent = session["payment_intent"]
    refunds = [] if intent is None else box.store.where("refund", "payment_intent", intent)
    disputes = [] if intent is None else box.store.where("dispute", "payment_intent", intent)
    return {
        "session": session["id"],
        "client_reference_id": session["client_reference_id"],
        "payment_intent": intent,
        "customer": session["customer"],
        "status": session["status"],
        "payment_status": session["payment_status"],
        "currency": session["currency"],
        "amount_total": session["amount_total"],
        "refunded": sum(item["amount"] for item in refunds if item["status"] in COUNTING),
        "disputed": sum(item["amount"] for item in disputes if item["status"] not in HARMLESS),
        "refunds": [{name: item[name] for name in ("id", "amount", "status")} for item in refunds],
        "disputes": [
            {name: item[name] for name in ("id", "amount", "status")} for item in disputes
        ],
    }
