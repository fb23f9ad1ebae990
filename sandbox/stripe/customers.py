"""Customers."""

from typing import Any

import stripe

from sandbox.stripe.common import Params, copy_fields, get, new_metadata, update_fields
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public, snapshot
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import Obj

_ON_REQUEST = ("cash_balance", "sources", "subscriptions", "tax", "tax_ids")
_FIELDS = (
    "address",
    "balance",
    "business_name",
    "description",
    "email",
    "individual_name",
    "invoice_prefix",
    "name",
    "phone",
    "preferred_locales",
    "shipping",
    "tax_exempt",
)


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    customer = blank(stripe.Customer, "customer", new_id("cus_", 14), without=_ON_REQUEST)
    customer |= {
        "balance": 0,
        "created": box.now(),
        "delinquent": False,
        "invoice_prefix": new_id("", 8).upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": new_metadata(params),
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
    }
    copy_fields(customer, params, _FIELDS)
    box.store.save(customer)
    box.emit(cause, "customer.created", customer)
    return public(customer)


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    customer = get(box, "customer", id_)
    if customer.get("deleted"):
        return {"id": id_, "object": "customer", "deleted": True}
    return public(customer)


def update(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    customer = _present(box, id_)
    change(box, cause, customer, params)
    return public(customer)


def change(box: Sandbox, cause: Cause, customer: Obj, params: dict[str, Any]) -> None:
    before = snapshot(customer)
    update_fields(customer, params, _FIELDS)
    if snapshot(customer) != before:
        box.store.save(customer)
        box.emit(cause, "customer.updated", customer, before=before)


def delete(box: Sandbox, cause: Cause, _params: Params, id_: str) -> Obj:
    customer = _present(box, id_)
    box.emit(cause, "customer.deleted", customer)
    customer["deleted"] = True
    box.store.save(customer)
    return {"id": id_, "object": "customer", "deleted": True}


def list_customers(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "customer", params, "/v1/customers", by=("email",))


def _present(box: Sandbox, id_: str) -> Obj:
    customer = get(box, "customer", id_)
    return get(box, "customer", "") if customer.get("deleted") else customer
