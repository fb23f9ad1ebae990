"""Products and prices."""

from decimal import Decimal
from typing import Any

import stripe

from sandbox.stripe.common import (
    Params,
    copy_fields,
    get,
    named,
    new_metadata,
    update_fields,
)
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public, snapshot
from sandbox.stripe.errors import ApiError, invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import Obj

_PRODUCT_FIELDS = (
    "active",
    "default_price",
    "description",
    "images",
    "marketing_features",
    "name",
    "package_dimensions",
    "shippable",
    "statement_descriptor",
    "tax_code",
    "unit_label",
    "url",
)
LOOKUP_KEYS_MAX = 10


# -- products ---------------------------------------------------------------------------------


def create_product(box: Sandbox, cause: Cause, params: Params) -> Obj:
    id_ = params.get("id") or new_id("prod_", 14)
    if box.store.find("product", id_) is not None:
        raise invalid("Product already exists.", code="resource_already_exists", param="id")
    product = blank(stripe.Product, "product", id_)
    product |= {
        "active": True,
        "created": box.now(),
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": new_metadata(params),
        "name": params["name"],
        "type": "service",
        "updated": box.now(),
    }
    copy_fields(product, params, _PRODUCT_FIELDS)
    box.store.save(product)
    box.emit(cause, "product.created", product)
    if "default_price_data" in params:
        data = {**params["default_price_data"], "product": id_}
        product["default_price"] = create_price(box, cause, data)["id"]
        box.store.save(product)
    return public(product)


def retrieve_product(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    product = get(box, "product", id_)
    if product.get("deleted"):
        return {"id": id_, "object": "product", "deleted": True}
    return public(product)


def update_product(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    product = get(box, "product", id_)
    before = snapshot(product)
    if params.get("default_price"):
        named(box, "price", params["default_price"], "default_price")
    update_fields(product, params, _PRODUCT_FIELDS)
    if snapshot(product) != before:
        product["updated"] = box.now()
        box.store.save(product)
        box.emit(cause, "product.updated", product, before=before)
    return public(product)


def delete_product(box: Sandbox, cause: Cause, _params: Params, id_: str) -> Obj:
    product = get(box, "product", id_)
    if box.store.where("price", "product", id_):
        raise invalid(
            "This product cannot be deleted because it has one or more user-created prices.",
            param="id",
        )
    product["deleted"] = True
    box.store.save(product)
    box.emit(cause, "product.deleted", product)
    return {"id": id_, "object": "product", "deleted": True}


def list_products(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    ids = params.get("ids")
    return list_kind(
        box,
        "product",
        params,
        "/v1/products",
        by=("active", "shippable", "url"),
        keep=None if ids is None else lambda product: product["id"] in ids,
    )


# -- prices -----------------------------------------------------------------------------------


def create_price(box: Sandbox, cause: Cause, params: Params) -> Obj:
    if "product_data" in params:
        product = create_product(box, cause, params["product_data"])
    elif "product" in params:
        product = named(box, "product", params["product"], "product")
    else:
        raise invalid(
            "Required parameter missing. Must have at least one of product, product_data.",
            code="parameter_missing",
        )
    lookup_key = params.get("lookup_key") or None
    _claim(box, cause, lookup_key, transfer=params.get("transfer_lookup_key", False))
    amount, decimal = _amounts(params)
    recurring = params.get("recurring")
    price = blank(stripe.Price, "price", new_id("price_1"), without=("currency_options", "tiers"))
    price |= {
        "active": params.get("active", True),
        "billing_scheme": "per_unit",
        "created": box.now(),
        "currency": params["currency"].lower(),
        "livemode": False,
        "lookup_key": lookup_key,
        "metadata": new_metadata(params),
        "nickname": params.get("nickname"),
        "product": product["id"],
        "recurring": recurring and _recurring(recurring),
        "tax_behavior": params.get("tax_behavior", "unspecified"),
        "type": "one_time" if recurring is None else "recurring",
        "unit_amount": amount,
        "unit_amount_decimal": decimal,
    }
    box.store.save(price)
    box.emit(cause, "price.created", price)
    return public(price)


def retrieve_price(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "price", id_))


def update_price(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    """The amount and the currency of a price never change."""
    price = get(box, "price", id_)
    before = snapshot(price)
    if "lookup_key" in params and params["lookup_key"] != price["lookup_key"]:
        transfer = params.get("transfer_lookup_key", False)
        _claim(box, cause, params["lookup_key"] or None, transfer=transfer)
    update_fields(price, params, ("active", "lookup_key", "nickname", "tax_behavior"))
    if snapshot(price) != before:
        box.store.save(price)
        box.emit(cause, "price.updated", price, before=before)
    return public(price)


def list_prices(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    keys = params.get("lookup_keys")
    if keys is not None and len(keys) > LOOKUP_KEYS_MAX:
        raise invalid(f"You may only specify up to {LOOKUP_KEYS_MAX} keys.", param="lookup_keys")
    return list_kind(
        box,
        "price",
        params,
        "/v1/prices",
        by=("active", "currency", "product", "type"),
        keep=None if keys is None else lambda price: price["lookup_key"] in keys,
    )


def _claim(box: Sandbox, cause: Cause, lookup_key: str | None, *, transfer: bool) -> None:
    if lookup_key is None:
        return
    for holder in box.store.where("price", "lookup_key", lookup_key):
        if not transfer:
            raise invalid(
                f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key"
            )
        before = snapshot(holder)
        holder["lookup_key"] = None
        box.store.save(holder)
        box.emit(cause, "price.updated", holder, before=before)


def _amounts(params: Params) -> tuple[int | None, str]:
    if "unit_amount" in params:
        amount: int = params["unit_amount"]
        if amount < 0:
            raise _not_positive(amount)
        return amount, str(amount)
    if "unit_amount_decimal" in params:
        decimal = Decimal(str(params["unit_amount_decimal"])).normalize()
        whole = decimal == decimal.to_integral_value()
        return (int(decimal) if whole else None), f"{decimal:f}"
    raise invalid(
        "Missing required param: unit_amount.", code="parameter_missing", param="unit_amount"
    )


def _not_positive(amount: int) -> ApiError:
    return invalid(
        f"Invalid non-negative integer: {amount}",
        code="parameter_invalid_integer",
        param="unit_amount",
    )


def _recurring(params: Params) -> dict[str, Any]:
    return {
        "interval": params["interval"],
        "interval_count": params.get("interval_count", 1),
        "meter": params.get("meter"),
        "trial_period_days": params.get("trial_period_days"),
        "usage_type": params.get("usage_type", "licensed"),
    }
