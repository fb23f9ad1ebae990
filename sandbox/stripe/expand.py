"""`expand[]`: ids replaced by their objects, and fields that appear on request only."""

from collections.abc import Callable
from typing import Any

from sandbox.stripe.engine import Sandbox, public
from sandbox.stripe.errors import malformed
from sandbox.stripe.listing import list_of
from sandbox.stripe.store import PRIVATE, Obj

DEPTH_MAX = 4  # https://docs.stripe.com/api/expanding_objects

_KIND_OF = {
    "charge": "charge",
    "coupon": "coupon",
    "customer": "customer",
    "default_price": "price",
    "invoice": "invoice",
    "latest_charge": "charge",
    "payment_intent": "payment_intent",
    "payment_method": "payment_method",
    "price": "price",
    "product": "product",
    "promotion_code": "promotion_code",
}


def _line_items(box: Sandbox, session: Obj) -> Obj:
    stored = box.store.find("checkout.session", session["id"])
    assert stored is not None
    return list_of(
        stored[PRIVATE]["line_items"], f"/v1/checkout/sessions/{session['id']}/line_items"
    )


def _refunds(box: Sandbox, charge: Obj) -> Obj:
    refunds = box.store.where("refund", "charge", charge["id"])
    return list_of(refunds[::-1], f"/v1/charges/{charge['id']}/refunds")


def _payments(box: Sandbox, invoice: Obj) -> Obj:
    payments = [p for p in box.store.all("invoice_payment") if p["invoice"] == invoice["id"]]
    return list_of(payments, f"/v1/invoice_payments?invoice={invoice['id']}")


_ON_REQUEST: dict[tuple[str, str], Callable[[Sandbox, Obj], Obj]] = {
    ("checkout.session", "line_items"): _line_items,
    ("charge", "refunds"): _refunds,
    ("invoice", "payments"): _payments,
}


def expanded(box: Sandbox, obj: Obj, paths: list[str]) -> Obj:
    """A copy of `obj` where every path is followed. Raises: ApiError 400."""
    for path in paths:
        segments = path.split(".")
        if len(segments) > DEPTH_MAX:
            raise malformed(
                f"You cannot expand more than {DEPTH_MAX} levels of a property ({path})",
                param="expand",
            )
        obj = _follow(box, obj, segments, path)
    return obj


def _follow(box: Sandbox, value: Any, segments: list[str], path: str) -> Any:
    if not segments or value is None:
        return value
    if isinstance(value, list):
        return [_follow(box, item, segments, path) for item in value]
    name, *rest = segments
    if not isinstance(value, dict):
        raise _refused(path)
    make = _ON_REQUEST.get((value.get("object", ""), name))
    if make is not None and value.get(name) is None:
        found: Any = make(box, value)
    elif name in value:
        found = _resolved(box, name, value[name], path, last=not rest)
    else:
        raise _refused(path)
    return {**value, name: _follow(box, found, rest, path)}


def _resolved(box: Sandbox, name: str, present: Any, path: str, *, last: bool) -> Any:
    if isinstance(present, str):
        kind = _KIND_OF.get(name)
        if kind is None:
            raise _refused(path)
        target = box.store.find(kind, present)
        return present if target is None else public(target)
    if last and present is not None and name not in _KIND_OF and name != "data":
        raise _refused(path)
    return present


def _refused(path: str) -> Exception:
    return malformed(f"This property cannot be expanded ({path}).", param="expand")
