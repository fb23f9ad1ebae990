"""Early fraud warnings: what card networks report, often before a dispute."""

import stripe

from sandbox.stripe.common import Params, get
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public, snapshot
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import Obj

KIND = "radar.early_fraud_warning"


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, KIND, id_))


def list_warnings(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    url = "/v1/radar/early_fraud_warnings"
    return list_kind(box, KIND, params, url, by=("payment_intent", "charge"))


def open_warning(box: Sandbox, cause: Cause, charge: Obj, *, fraud_type: str) -> Obj:
    warning = blank(stripe.radar.EarlyFraudWarning, KIND, new_id("issfr_1"))
    warning |= {
        "actionable": not (charge["refunded"] or charge["disputed"]),
        "charge": charge["id"],
        "created": box.now(),
        "fraud_type": fraud_type,
        "livemode": False,
        "payment_intent": charge["payment_intent"],
    }
    box.store.save(warning)
    box.emit(cause, f"{KIND}.created", warning)
    return warning


def settle(box: Sandbox, cause: Cause, charge: Obj) -> None:
    """After a full refund or a dispute nothing can be done about a warning any more.

    https://docs.stripe.com/api/radar/early_fraud_warnings/object
    """
    if not (charge["refunded"] or charge["disputed"]):
        return
    for warning in box.store.where(KIND, "charge", charge["id"]):
        if warning["actionable"]:
            before = snapshot(warning)
            warning["actionable"] = False
            box.store.save(warning)
            box.emit(cause, f"{KIND}.updated", warning, before=before)
