"""What happens on a session's page: discounts, payment, failure, and the end of its time."""

import heapq
from typing import Any

from sandbox.stripe import customers, discounts, invoices, payments
from sandbox.stripe.amounts import calculate
from sandbox.stripe.common import get
from sandbox.stripe.engine import Cause, Sandbox
from sandbox.stripe.errors import invalid
from sandbox.stripe.store import PRIVATE, Obj

EMAIL = "buyer@example.com"  # of a buyer who gives none
_ADDRESS = {
    "city": "Berlin",
    "country": "DE",
    "line1": "Goldgasse 1",
    "line2": None,
    "postal_code": "10117",
    "state": None,
}


def recalculate(box: Sandbox, session: Obj) -> None:
    applied = session["discounts"]
    coupon = get(box, "coupon", applied[0]["coupon"]) if applied else None
    rate = box.tuning.tax_percent if session["automatic_tax"]["enabled"] else None
    # Stripe knows the tax when it knows the address, which is on the page.
    located = session["customer_details"] is not None or session["status"] != "open"
    sums = calculate(session[PRIVATE]["line_items"], coupon, rate if located else None)
    session["amount_subtotal"] = sums["subtotal"]
    session["amount_total"] = sums["total"]
    session["total_details"] = {
        "amount_discount": sums["discount"],
        "amount_shipping": 0,
        "amount_tax": sums["tax"],
    }


def apply_code(box: Sandbox, session: Obj, code: str) -> None:
    """What the customer typed. Raises: ApiError 400."""
    require_open(session)
    if not session["allow_promotion_codes"]:
        raise invalid("This session takes no promotion codes.", param="promotion_code")
    promotion = discounts.find_code(box, code)
    if promotion is None:
        raise invalid("This code is invalid.", param="promotion_code")
    apply_discount(box, session, promotion["promotion"]["coupon"], promotion)
    recalculate(box, session)
    box.store.save(session)


def apply_discount(box: Sandbox, session: Obj, coupon_id: str, promotion: Obj | None) -> None:
    lines = session[PRIVATE]["line_items"]
    discounts.require_redeemable(
        box,
        get(box, "coupon", coupon_id),
        promotion,
        subtotal=sum(line["price"]["unit_amount"] * line["quantity"] for line in lines),
        currency=session["currency"],
        customer=session["customer"],
    )
    session["discounts"] = [
        {"coupon": coupon_id, "promotion_code": None if promotion is None else promotion["id"]}
    ]


def remove_discount(box: Sandbox, session: Obj) -> None:
    require_open(session)
    session["discounts"] = []
    recalculate(box, session)
    box.store.save(session)


def pay(
    box: Sandbox,
    cause: Cause,
    session: Obj,
    *,
    slow: bool = False,
    late: bool = False,
    card: str | None = None,
    email: str | None = None,
    name: str | None = None,
) -> None:
    """Completes the session; `slow` leaves it unpaid until `settle`. A `late` payment had begun
    when the session expired, and is completed all the same. Raises: ApiError 400."""
    if late and session["status"] == "expired":
        session["status"] = "open"
    require_open(session)
    _identify(box, cause, session, email, name)
    recalculate(box, session)
    for discount in session["discounts"]:
        discounts.redeem(box, discount["coupon"], discount["promotion_code"])
    if session["amount_total"] == 0:
        session["payment_status"] = "no_payment_required"
    else:
        intent = _intent(box, cause, session)
        if slow:
            payments.begin_debit(box, cause, intent)
        else:
            payments.succeed(box, cause, intent, card=card)
            session["payment_status"] = "paid"
    if session["payment_status"] != "unpaid":
        invoices.create_paid(box, cause, session)
    _close(session, "complete")
    box.store.save(session)
    box.emit(cause, "checkout.session.completed", session)


def decline(box: Sandbox, cause: Cause, session: Obj, *, code: str = "generic_decline") -> None:
    """The card is refused; the session stays open."""
    require_open(session)
    if session["amount_total"] == 0:
        raise invalid("There is nothing to pay.")
    payments.decline(box, cause, _intent(box, cause, session), code)
    box.store.save(session)


def settle(box: Sandbox, cause: Cause, session: Obj, *, succeeded: bool) -> None:
    """The end of a slow payment."""
    if session["status"] != "complete" or session["payment_status"] != "unpaid":
        raise invalid("This session does not wait for a payment.")
    intent = get(box, "payment_intent", session["payment_intent"])
    if intent["status"] != "processing":
        raise invalid("This payment has already ended.")
    payments.end_debit(box, cause, intent, succeeded=succeeded)
    if succeeded:
        session["payment_status"] = "paid"
        invoices.create_paid(box, cause, session)
    box.store.save(session)
    outcome = "succeeded" if succeeded else "failed"
    box.emit(cause, f"checkout.session.async_payment_{outcome}", session)


def expire(box: Sandbox, cause: Cause, session: Obj) -> None:
    require_open(session)
    _close(session, "expired")
    box.store.save(session)
    box.emit(cause, "checkout.session.expired", session)


def sweep(box: Sandbox, base_url: str) -> None:
    """Expires what is past its time."""
    now = box.now()
    while box.expiries and box.expiries[0][0] <= now:
        _, id_ = heapq.heappop(box.expiries)
        session = box.store.find("checkout.session", id_)
        if session is not None and session["status"] == "open" and session["expires_at"] <= now:
            expire(box, Cause(base_url), session)


def require_open(session: Obj) -> None:
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.")


def return_url(session: Obj) -> str:
    """Only the literal template is replaced, as Stripe does it."""
    url: str = session["success_url"]
    return url.replace("{CHECKOUT_SESSION_ID}", session["id"])


def _close(session: Obj, status: str) -> None:
    session["status"] = status
    session["url"] = None


def _intent(box: Sandbox, cause: Cause, session: Obj) -> Obj:
    """One for all attempts; made with the first, as Stripe has it since 2022-08-01."""
    if session["payment_intent"] is not None:
        intent = get(box, "payment_intent", session["payment_intent"])
        intent["amount"] = session["amount_total"]
        return intent
    data = session[PRIVATE]["payment_intent_data"]
    intent = payments.new_intent(
        box,
        cause,
        amount=session["amount_total"],
        currency=session["currency"],
        customer=session["customer"],
        metadata=data["metadata"],
        description=data.get("description"),
        receipt_email=data.get("receipt_email"),
    )
    session["payment_intent"] = intent["id"]
    return intent


def _identify(
    box: Sandbox, cause: Cause, session: Obj, email: str | None, name: str | None
) -> None:
    customer = None
    if session["customer"] is not None:
        customer = get(box, "customer", session["customer"])
    known = customer or {}
    taxed = session["automatic_tax"]["enabled"]
    address = known.get("address") or _ADDRESS
    session["customer_details"] = {
        "address": address,
        "business_name": None,
        "email": known.get("email") or email or session["customer_email"] or EMAIL,
        "individual_name": None,
        "name": name or known.get("name"),
        "phone": known.get("phone"),
        "tax_exempt": "none",
        "tax_ids": [],
    }
    if taxed:
        session["automatic_tax"]["status"] = "complete"
    if customer is not None:
        _update_customer(box, cause, session, customer)
    elif session["customer_creation"] == "always":
        details = session["customer_details"]
        made = customers.create(
            box, cause, {name: details[name] for name in ("email", "name") if details[name]}
        )
        session["customer"] = made["id"]


def _update_customer(box: Sandbox, cause: Cause, session: Obj, customer: Obj) -> None:
    details = session["customer_details"]
    wanted = session[PRIVATE]["customer_update"]
    change: dict[str, Any] = {
        field: details[field]
        for field in ("address", "name")
        if wanted.get(field) == "auto" and details[field] is not None
    }
    if customer["email"] is None:
        change["email"] = details["email"]
    if change:
        customers.change(box, cause, customer, change)
