"""Coupons, the promotion codes that name them, and what they take off."""

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

_ON_REQUEST = ("applies_to", "currency_options")


# -- coupons ----------------------------------------------------------------------------------


def create_coupon(box: Sandbox, cause: Cause, params: Params) -> Obj:
    if ("percent_off" in params) == ("amount_off" in params):
        raise invalid("Must provide percent_off or amount_off", param="percent_off")
    if "amount_off" in params and "currency" not in params:
        raise invalid("Must provide currency with amount_off", param="currency")
    id_ = params.get("id") or new_id("", 8)
    if box.store.find("coupon", id_) is not None:
        raise invalid("Coupon already exists.", code="resource_already_exists", param="id")
    coupon = blank(stripe.Coupon, "coupon", id_, without=_ON_REQUEST)
    coupon |= {
        "created": box.now(),
        "duration": "once",
        "livemode": False,
        "metadata": new_metadata(params),
        "times_redeemed": 0,
        "valid": True,
    }
    copy_fields(
        coupon,
        params,
        (
            "amount_off",
            "currency",
            "duration",
            "duration_in_months",
            "max_redemptions",
            "name",
            "percent_off",
            "redeem_by",
        ),
    )
    box.store.save(coupon)
    box.emit(cause, "coupon.created", coupon)
    return public(coupon)


def retrieve_coupon(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(_present_coupon(box, id_))


def update_coupon(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    coupon = _present_coupon(box, id_)
    before = snapshot(coupon)
    update_fields(coupon, params, ("name",))
    box.store.save(coupon)
    box.emit(cause, "coupon.updated", coupon, before=before)
    return public(coupon)


def delete_coupon(box: Sandbox, cause: Cause, _params: Params, id_: str) -> Obj:
    coupon = _present_coupon(box, id_)
    coupon |= {"deleted": True, "valid": False}
    box.store.save(coupon)
    box.emit(cause, "coupon.deleted", coupon)
    return {"id": id_, "object": "coupon", "deleted": True}


def list_coupons(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "coupon", params, "/v1/coupons")


def _present_coupon(box: Sandbox, id_: str) -> Obj:
    coupon = get(box, "coupon", id_)
    return get(box, "coupon", "") if coupon.get("deleted") else coupon


# -- promotion codes --------------------------------------------------------------------------


def create_code(box: Sandbox, cause: Cause, params: Params) -> Obj:
    coupon = named(box, "coupon", params["promotion"].get("coupon", ""), "promotion[coupon]")
    code = params.get("code") or new_id("", 8).upper()
    if _active(box, code) is not None:
        raise invalid(
            "An active promotion code with `code: " + code + "` already exists.", param="code"
        )
    if "customer" in params:
        named(box, "customer", params["customer"], "customer")
    restrictions = params.get("restrictions", {})
    promotion = blank(stripe.PromotionCode, "promotion_code", new_id("promo_1"))
    promotion |= {
        "active": params.get("active", True),
        "code": code,
        "created": box.now(),
        "livemode": False,
        "metadata": new_metadata(params),
        "promotion": {"coupon": coupon["id"], "type": "coupon"},
        "restrictions": {
            "first_time_transaction": restrictions.get("first_time_transaction", False),
            "minimum_amount": restrictions.get("minimum_amount"),
            "minimum_amount_currency": restrictions.get("minimum_amount_currency"),
        },
        "times_redeemed": 0,
    }
    copy_fields(promotion, params, ("customer", "expires_at", "max_redemptions"))
    box.store.save(promotion)
    box.emit(cause, "promotion_code.created", promotion)
    return public(promotion)


def retrieve_code(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "promotion_code", id_))


def update_code(box: Sandbox, cause: Cause, params: Params, id_: str) -> Obj:
    promotion = get(box, "promotion_code", id_)
    before = snapshot(promotion)
    update_fields(promotion, params, ("active",))
    box.store.save(promotion)
    box.emit(cause, "promotion_code.updated", promotion, before=before)
    return public(promotion)


def list_codes(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    coupon = params.get("coupon")
    return list_kind(
        box,
        "promotion_code",
        params,
        "/v1/promotion_codes",
        by=("active", "code", "customer"),
        keep=None if coupon is None else lambda code: code["promotion"]["coupon"] == coupon,
    )


def find_code(box: Sandbox, code: str) -> Obj | None:
    """By what the customer typed."""
    return _active(box, code.strip())


def _active(box: Sandbox, code: str) -> Obj | None:
    for promotion in box.store.all("promotion_code"):
        if promotion["active"] and promotion["code"].casefold() == code.casefold():
            return promotion
    return None


# -- what they do -----------------------------------------------------------------------------


def require_redeemable(
    box: Sandbox,
    coupon: Obj,
    promotion: Obj | None,
    *,
    subtotal: int,
    currency: str,
    customer: str | None,
) -> None:
    """Raises: ApiError 400 that says why not."""
    now = box.now()
    if coupon.get("deleted") or _used_up(coupon) or _over(coupon["redeem_by"], now):
        raise _refused("Coupon expired or used up.")
    if coupon["currency"] is not None and coupon["currency"] != currency:
        raise _refused("This coupon is in another currency.")
    if promotion is None:
        return
    if not promotion["active"] or _used_up(promotion) or _over(promotion["expires_at"], now):
        raise _refused("This promotion code has expired.")
    if promotion["customer"] not in {None, customer}:
        raise _refused("This promotion code cannot be used by this customer.")
    restrictions = promotion["restrictions"]
    if (restrictions["minimum_amount"] or 0) > subtotal:
        raise _refused("This promotion code cannot be redeemed: the amount is too small.")
    if restrictions["first_time_transaction"] and customer is not None:
        paid = box.store.where("charge", "customer", customer)
        if any(charge["status"] == "succeeded" for charge in paid):
            raise _refused("This promotion code is for a first payment.")


def redeem(box: Sandbox, coupon_id: str, promotion_id: str | None) -> None:
    coupon = get(box, "coupon", coupon_id)
    coupon["times_redeemed"] += 1
    coupon["valid"] = not _used_up(coupon)
    box.store.save(coupon)
    if promotion_id is not None:
        promotion = get(box, "promotion_code", promotion_id)
        promotion["times_redeemed"] += 1
        promotion["active"] = promotion["active"] and not _used_up(promotion)
        box.store.save(promotion)


def _used_up(obj: Obj) -> bool:
    most = obj["max_redemptions"]
    return most is not None and obj["times_redeemed"] >= most


def _over(until: int | None, now: int) -> bool:
    return until is not None and now >= until


def _refused(message: str) -> ApiError:
    return invalid(message, param="discounts")
