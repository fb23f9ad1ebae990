"""Invoices: the paid ones that `invoice_creation` makes after a payment."""

import stripe

from sandbox.stripe.common import Params, get, merged_metadata
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import PRIVATE, Obj


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "invoice", id_))


def list_invoices(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(
        box,
        "invoice",
        params,
        "/v1/invoices",
        by=("customer", "status", "collection_method"),
    )


def retrieve_payment(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "invoice_payment", id_))


def list_payments(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    wanted = params.get("payment", {})

    def keep(payment: Obj) -> bool:
        return all(payment["payment"].get(name) == value for name, value in wanted.items())

    return list_kind(
        box, "invoice_payment", params, "/v1/invoice_payments", by=("invoice", "status"), keep=keep
    )


def create_paid(box: Sandbox, cause: Cause, session: Obj) -> None:
    """After the payment of a session that asks for one; the session then names it."""
    creation = session["invoice_creation"]
    if not creation["enabled"]:
        return
    data = creation["invoice_data"]
    invoice = _invoice(box, cause, session)
    invoice |= {
        "custom_fields": data["custom_fields"],
        "description": data["description"],
        "footer": data["footer"],
        "metadata": merged_metadata({}, data["metadata"] or {}),
    }
    session["invoice"] = invoice["id"]
    box.store.save(invoice)
    _record_payment(box, session, invoice)
    for step in ("created", "finalized", "updated", "paid", "payment_succeeded"):
        box.emit(cause, f"invoice.{step}", invoice)


def _invoice(box: Sandbox, cause: Cause, session: Obj) -> Obj:
    id_ = new_id("in_1")
    now = box.now()
    customer = box.store.find("customer", session["customer"] or "")
    if customer is None:
        prefix, number = new_id("", 8).upper(), 1
    else:
        prefix, number = customer["invoice_prefix"], customer["next_invoice_sequence"]
        customer["next_invoice_sequence"] = number + 1
        box.store.save(customer)
    details = session["customer_details"]
    total = session["amount_total"]
    tax = session["total_details"]["amount_tax"]
    page = f"{cause.base_url}/i/{id_}"
    lines = [_line(id_, line, now) for line in session[PRIVATE]["line_items"]]
    invoice = blank(stripe.Invoice, "invoice", id_, without=("payments", "confirmation_secret"))
    return invoice | {
        "account_country": "DE",
        "account_name": "Sandbox",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": total,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "attempt_count": 1 if total else 0,
        "attempted": True,
        "auto_advance": False,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": session["automatic_tax"]["enabled"],
            "liability": session["automatic_tax"]["liability"],
            "provider": session["automatic_tax"]["provider"],
            "status": session["automatic_tax"]["status"],
        },
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": now,
        "currency": session["currency"],
        "customer": session["customer"],
        "customer_address": details["address"],
        "customer_email": details["email"],
        "customer_name": details["name"],
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "effective_at": now,
        "ending_balance": 0,
        "hosted_invoice_url": page,
        "invoice_pdf": f"{page}/pdf",
        "issuer": {"type": "self"},
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/invoices/{id_}/lines",
        },
        "livemode": False,
        "number": f"{prefix}-{number:04d}",
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": now,
        "period_start": now,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "paid",
        "status_transitions": {
            "finalized_at": now,
            "marked_uncollectible_at": None,
            "paid_at": now,
            "voided_at": None,
        },
        "subtotal": session["amount_subtotal"],
        "subtotal_excluding_tax": session["amount_subtotal"],
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total - tax,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": now,
    }


def _line(invoice_id: str, item: Obj, now: int) -> Obj:
    line = blank(stripe.InvoiceLineItem, "line_item", new_id("il_1"))
    return line | {
        "amount": item["amount_subtotal"],
        "currency": item["currency"],
        "description": item["description"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": {},
        "parent": {
            "invoice_item_details": {
                "invoice_item": new_id("ii_1"),
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": None,
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        "period": {"end": now, "start": now},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": item["price"]["id"], "product": item["price"]["product"]},
            "type": "price_details",
            "unit_amount_decimal": item["price"]["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
        "subtotal": item["amount_subtotal"],
        "taxes": [],
    }


def _record_payment(box: Sandbox, session: Obj, invoice: Obj) -> None:
    if session["payment_intent"] is None:
        return
    payment = blank(stripe.InvoicePayment, "invoice_payment", new_id("inpay_1"))
    payment |= {
        "amount_paid": invoice["total"],
        "amount_requested": invoice["total"],
        "created": box.now(),
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": session["payment_intent"], "type": "payment_intent"},
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": box.now()},
    }
    box.store.save(payment)
