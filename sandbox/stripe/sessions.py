"""Checkout Sessions as the API makes and shows them; `checkout` is what happens on their page."""

import heapq
from typing import Any

import stripe

from sandbox.stripe import catalog, checkout
from sandbox.stripe.common import (
    Params,
    copy_fields,
    get,
    merged_metadata,
    named,
    new_metadata,
    update_fields,
)
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public
from sandbox.stripe.errors import ApiError, invalid
from sandbox.stripe.listing import list_kind, list_of
from sandbox.stripe.payments import AMOUNT_MIN
from sandbox.stripe.store import PRIVATE, Obj

EXPIRY_SECONDS_MIN = 30 * 60
EXPIRY_SECONDS_MAX = 24 * 3600
# The client computed `expires_at` from its clock a moment before the sandbox reads its own.
_EXPIRY_GRACE_SECONDS = 60
LINES_MAX = 100
REFERENCE_CHARS_MAX = 200

_COPIED = (
    "allow_promotion_codes",
    "billing_address_collection",
    "cancel_url",
    "client_reference_id",
    "customer",
    "customer_email",
    "locale",
    "submit_type",
    "success_url",
)


# -- the API ----------------------------------------------------------------------------------


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    _require_supported(params)
    _require_compatible(box, params)
    now = box.now()
    expires_at = _expiry(params, now)
    lines = [
        _line(box, cause, item, f"line_items[{place}]")
        for place, item in enumerate(params["line_items"])
    ]
    currencies = {line["currency"] for line in lines}
    if len(currencies) > 1:
        raise invalid("All line items must have the same currency.", param="line_items")
    id_ = new_id("cs_test_a1", 57)
    session = blank(stripe.checkout.Session, "checkout.session", id_, without=("line_items",))
    session |= _defaults(params)
    session |= {
        "created": now,
        "currency": currencies.pop(),
        "expires_at": expires_at,
        "metadata": new_metadata(params),
        "url": f"{cause.base_url}/c/pay/{id_}",
        PRIVATE: {
            "line_items": lines,
            "payment_intent_data": _intent_data(params),
            "customer_update": params.get("customer_update", {}),
        },
    }
    copy_fields(session, params, _COPIED)
    for discount in params.get("discounts", []):
        _discount(box, session, discount)
    checkout.recalculate(box, session)
    _require_amount(session)
    box.store.save(session)
    heapq.heappush(box.expiries, (expires_at, id_))
    return public(session)


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "checkout.session", id_))


def update(box: Sandbox, _cause: Cause, params: Params, id_: str) -> Obj:
    session = get(box, "checkout.session", id_)
    update_fields(session, {"metadata": params.get("metadata", {})}, ())
    return public(box.store.save(session))


def list_sessions(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    email = params.get("customer_details", {}).get("email")

    def keep(session: Obj) -> bool:
        return email is None or (session["customer_details"] or {}).get("email") == email

    return list_kind(
        box,
        "checkout.session",
        params,
        "/v1/checkout/sessions",
        by=("payment_intent", "customer", "status", "subscription", "payment_link"),
        keep=keep,
    )


def list_line_items(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    session = get(box, "checkout.session", id_)
    return list_of(session[PRIVATE]["line_items"], f"/v1/checkout/sessions/{id_}/line_items")


def expire(box: Sandbox, cause: Cause, _params: Params, id_: str) -> Obj:
    session = get(box, "checkout.session", id_)
    if session["status"] != "open":
        raise invalid(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
            f"Session has a status of {session['status']}."
        )
    checkout.expire(box, cause, session)
    return public(session)


# -- what is refused --------------------------------------------------------------------------


def _require_supported(params: Params) -> None:
    if params.get("mode") is None:
        raise invalid("Missing required param: mode.", code="parameter_missing", param="mode")
    if params["mode"] != "payment":
        raise invalid("The sandbox serves mode=payment only.", param="mode")
    if params.get("ui_mode", "hosted_page") != "hosted_page":
        raise invalid("The sandbox serves ui_mode=hosted_page only.", param="ui_mode")
    for name in ("success_url", "line_items"):
        if not params.get(name):
            raise invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    if len(params["line_items"]) > LINES_MAX:
        raise invalid(f"Up to {LINES_MAX} line items are allowed.", param="line_items")
    for name in ("success_url", "cancel_url"):
        if not str(params.get(name, "http://")).startswith(("http://", "https://")):
            raise invalid("Not a valid URL", code="url_invalid", param=name)
    if len(params.get("client_reference_id", "")) > REFERENCE_CHARS_MAX:
        raise invalid(
            f"Invalid string: must be at most {REFERENCE_CHARS_MAX} characters",
            param="client_reference_id",
        )


def _require_compatible(box: Sandbox, params: Params) -> None:
    _only_one(params, "customer", "customer_email")
    _only_one(params, "customer", "customer_creation")
    _only_one(params, "allow_promotion_codes", "discounts")
    customer = None
    if "customer" in params:
        customer = named(box, "customer", params["customer"], "customer")
    elif "customer_update" in params:
        raise invalid(
            "`customer_update` can only be used with `customer`.", param="customer_update"
        )
    update = params.get("customer_update", {})
    if customer is None:
        return
    taxed = params.get("automatic_tax", {}).get("enabled")
    if taxed and not customer["address"] and update.get("address") != "auto":
        raise invalid(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. "
            "Add a valid address to the Customer or set either `customer_update[address]` to "
            "'auto' or `customer_update[shipping]` to 'auto' to save the address entered in "
            "Checkout to the Customer.",
            code="customer_tax_location_invalid",
            param="automatic_tax",
        )
    if params.get("tax_id_collection", {}).get("enabled") and update.get("name") != "auto":
        raise invalid(
            "Tax ID collection requires updating business name on the customer. To enable tax "
            "ID collection for an existing customer, please set `customer_update[name]` to "
            "`auto`.",
            param="tax_id_collection",
        )


def _only_one(params: Params, first: str, second: str) -> None:
    if params.get(first) and params.get(second):
        raise invalid(f"You may only specify one of these parameters: {first}, {second}.")


def _expiry(params: Params, now: int) -> int:
    expires_at: int = params.get("expires_at", now + EXPIRY_SECONDS_MAX)
    if expires_at < now + EXPIRY_SECONDS_MIN - _EXPIRY_GRACE_SECONDS:
        raise invalid(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session "
            "creation.",
            param="expires_at",
        )
    if expires_at > now + EXPIRY_SECONDS_MAX + _EXPIRY_GRACE_SECONDS:
        raise invalid(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    return expires_at


def _require_amount(session: Obj) -> None:
    if 0 < session["amount_total"] < AMOUNT_MIN:
        raise invalid(
            "The Checkout Session's total amount due must add up to at least $0.50 "
            f"{session['currency']}",
            code="amount_too_small",
        )


# -- what it is made of -----------------------------------------------------------------------


def _line(box: Sandbox, cause: Cause, item: Params, param: str) -> Obj:
    if ("price" in item) == ("price_data" in item):
        raise invalid(
            "You must specify either `price` or `price_data` for each line item.", param=param
        )
    if "price" in item:
        price = named(box, "price", item["price"], f"{param}[price]")
        if not price["active"]:
            raise invalid(
                "The price specified is inactive. This field only accepts active prices.",
                param=f"{param}[price]",
            )
    else:
        # Stripe makes a Price and a Product of it as well, both inactive: they stay behind.
        made = catalog.create_price(box, cause, {**item["price_data"], "active": False})
        price = named(box, "price", made["id"], param)
    if price["type"] != "one_time":
        raise invalid(
            "You specified `payment` mode but passed a recurring price. Either switch to "
            "`subscription` mode or use only one-time prices.",
            param=param,
        )
    quantity = item.get("quantity", 1)
    if "quantity" not in item or quantity < 1:
        raise invalid(
            f"Invalid positive integer: {quantity}"
            if "quantity" in item
            else "Quantity is required. Add `quantity` to this line item.",
            param=f"{param}[quantity]",
        )
    product = get(box, "product", price["product"])
    line = blank(stripe.LineItem, "item", new_id("li_1"), without=("discounts", "taxes"))
    return line | {
        "currency": price["currency"],
        "description": product["name"],
        "metadata": item.get("metadata", {}),
        "price": dict(public(price)),
        "quantity": quantity,
    }


def _intent_data(params: Params) -> dict[str, Any]:
    data = dict(params.get("payment_intent_data", {}))
    name = "payment_intent_data[metadata]"
    data["metadata"] = merged_metadata({}, data.get("metadata", {}), name)
    return data


def _defaults(params: Params) -> Obj:
    taxed = params.get("automatic_tax", {}).get("enabled", False)
    invoice = params.get("invoice_creation", {})
    data = {
        "account_tax_ids": None,
        "custom_fields": None,
        "description": None,
        "footer": None,
        "issuer": None,
        "metadata": {},
        "rendering_options": None,
    } | invoice.get("invoice_data", {})
    in_box = "customer" not in params
    return {
        "adaptive_pricing": {"enabled": params.get("adaptive_pricing", {}).get("enabled", True)},
        "automatic_tax": {
            "enabled": taxed,
            "liability": {"type": "self"} if taxed else None,
            "provider": "stripe" if taxed else None,
            "status": "requires_location_inputs" if taxed else None,
        },
        "custom_fields": [],
        "custom_text": dict.fromkeys(
            ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")
        ),
        "customer_creation": params.get("customer_creation", "if_required") if in_box else None,
        "discounts": [],
        "invoice_creation": {"enabled": invoice.get("enabled", False), "invoice_data": data},
        "livemode": False,
        "mode": "payment",
        "payment_method_collection": "if_required",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card", "sepa_debit"],
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "saved_payment_method_options": None,
        "shipping_options": [],
        "status": "open",
        "tax_id_collection": {
            "enabled": params.get("tax_id_collection", {}).get("enabled", False),
            "required": "never",
        },
        "ui_mode": "hosted_page",
    }


def _discount(box: Sandbox, session: Obj, discount: Params) -> None:
    if discount.get("promotion_code"):
        promotion = named(
            box, "promotion_code", discount["promotion_code"], "discounts[0][promotion_code]"
        )
        checkout.apply_discount(box, session, promotion["promotion"]["coupon"], promotion)
    elif discount.get("coupon"):
        coupon = named(box, "coupon", discount["coupon"], "discounts[0][coupon]")
        checkout.apply_discount(box, session, coupon["id"], None)
    else:
        raise ApiError(400, "Must provide a coupon or promotion_code", param="discounts[0]")
