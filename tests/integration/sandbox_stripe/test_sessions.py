"""What a session may be made of, and what it then costs."""

from typing import Any

import pytest
import stripe

from tests.integration.sandbox_stripe.support import Json, Stripe


async def refused(call: Any) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await call
    return caught.value


async def coupon(pay: Stripe, code: str | None = None, **params: Any) -> Any:
    made = await pay.v1.coupons.create_async(params)
    if code is None:
        return made
    return await pay.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": made.id}, "code": code}
    )


async def test_prices_by_lookup_key(pay: Stripe) -> None:
    old = await pay.price(500, lookup_key="credits_100")
    error = await refused(pay.price(600, lookup_key="credits_100"))
    assert error.param == "lookup_key"
    new = await pay.price(600, lookup_key="credits_100", transfer_lookup_key=True)

    found = await pay.v1.prices.list_async({"lookup_keys": ["credits_100"], "active": True})
    assert [item.id for item in found.data] == [new.id]
    assert (await pay.v1.prices.retrieve_async(old.id)).lookup_key is None
    assert (new.unit_amount, new.currency, new.type) == (600, "usd", "one_time")
    assert str(new.unit_amount_decimal) == "600"

    changed = await pay.v1.prices.update_async(new.id, {"active": False, "nickname": "hundred"})
    assert (changed.active, changed.nickname) == (False, "hundred")
    found = await pay.v1.prices.list_async({"lookup_keys": ["credits_100"], "active": True})
    assert found.data == []
    error = await refused(pay.session(new))
    assert error.param == "line_items[0][price]"


async def test_products(pay: Stripe) -> None:
    params = {
        "id": "prod_credits",
        "name": "Credits",
        "default_price_data": {"currency": "usd", "unit_amount": 500},
    }
    made = await pay.v1.products.create_async(params)
    assert (await pay.v1.prices.retrieve_async(made.default_price)).product == "prod_credits"
    assert (await refused(pay.v1.products.create_async(params))).code == "resource_already_exists"
    made = await pay.v1.products.update_async("prod_credits", {"active": False})
    assert not made.active
    listed = await pay.v1.products.list_async({"active": False, "ids": ["prod_credits"]})
    assert [item.id for item in listed.data] == ["prod_credits"]
    await refused(pay.v1.products.delete_async("prod_credits"))
    unused = await pay.v1.products.create_async({"name": "Unused"})
    assert (await pay.v1.products.delete_async(unused.id)).deleted


async def test_inline_price(pay: Stripe) -> None:
    item = {
        "price_data": {
            "currency": "eur",
            "unit_amount": 700,
            "product_data": {"name": "Inline"},
        },
        "quantity": 2,
    }
    session = await pay.session(line_items=[item])
    assert (session.amount_total, session.currency) == (1400, "eur")
    lines = await pay.v1.checkout.sessions.line_items.list_async(session.id)
    assert [line.description for line in lines.data] == ["Inline"]
    assert not lines.data[0].price.active


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"mode": "subscription"}, "mode"),
        ({"success_url": "shop.test"}, "success_url"),
        ({"line_items": []}, "line_items"),
        ({"client_reference_id": "x" * 201}, "client_reference_id"),
        ({"customer_update": {"name": "auto"}}, "customer_update"),
        ({"ui_mode": "embedded_page"}, "ui_mode"),
        ({"metadata": {"x" * 41: "1"}}, "metadata"),
    ],
)
async def test_refused(pay: Stripe, changes: dict[str, Any], param: str) -> None:
    assert (await refused(pay.session(**changes))).param == param


async def test_combinations_that_are_refused(pay: Stripe) -> None:
    made = await pay.v1.customers.create_async({})
    for changes in (
        {"customer": made.id, "customer_email": "a@example.com"},
        {"customer": made.id, "customer_creation": "always"},
        {"allow_promotion_codes": True, "discounts": [{"coupon": "x"}]},
        {"customer": made.id, "automatic_tax": {"enabled": True}},
        {"customer": made.id, "tax_id_collection": {"enabled": True}},
    ):
        assert (await refused(pay.session(**changes))).http_status == 400


async def test_time_to_live(pay: Stripe) -> None:
    now = pay.box.now()
    for seconds in (600, 90_000):
        assert (await refused(pay.session(expires_at=now + seconds))).param == "expires_at"
    assert (await pay.session(expires_at=now + 1800)).expires_at == now + 1800
    assert abs((await pay.session()).expires_at - now - 86_400) < 5


async def test_tiny_amounts(pay: Stripe) -> None:
    assert (await refused(pay.session(await pay.price(49)))).code == "amount_too_small"
    assert (await pay.session(await pay.price(0))).amount_total == 0


async def test_expired_and_paid_sessions_stay_so(pay: Stripe) -> None:
    session = await pay.paid()
    error = await refused(pay.v1.checkout.sessions.expire_async(session.id))
    assert "complete" in str(error)
    answer = await pay.http.post(f"/__control/sessions/{session.id}/pay")
    assert answer.status_code == 400


# -- amounts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "total"),
    [
        ({"percent_off": 25}, 750),
        ({"percent_off": 33.3}, 667),
        ({"amount_off": 300, "currency": "usd"}, 700),
        ({"amount_off": 3000, "currency": "usd"}, 0),
    ],
)
async def test_discounts(pay: Stripe, params: dict[str, Any], total: int) -> None:
    code = await coupon(pay, "SAVE", **params)
    session = await pay.session(discounts=[{"promotion_code": code.id}])
    assert session.amount_subtotal == 1000
    assert session.amount_total == total
    assert session.total_details.amount_discount == 1000 - total
    assert session.discounts[0].promotion_code == code.id


async def test_codes_that_cannot_be_used(pay: Stripe) -> None:
    session = await pay.session(allow_promotion_codes=True)

    async def tried(code: str) -> str:
        answer = await pay.http.post(
            f"/__control/sessions/{session.id}/pay", json={"promotion_code": code}
        )
        assert answer.status_code == 400
        return str(answer.json()["error"]["message"])

    assert await tried("NOPE") == "This code is invalid."
    await coupon(pay, "EURO", amount_off=100, currency="eur")
    assert "currency" in await tried("EURO")
    gone = await coupon(pay, "GONE", percent_off=10)
    await pay.v1.promotion_codes.update_async(gone.id, {"active": False})
    assert await tried("GONE") == "This code is invalid."
    buyer = await pay.v1.customers.create_async({})
    restrictions: list[tuple[Json, str]] = [
        ({"restrictions": {"minimum_amount": 9000, "minimum_amount_currency": "usd"}}, "small"),
        ({"expires_at": pay.box.now() - 1}, "expired"),
        ({"customer": buyer.id}, "customer"),
    ]
    for number, (restriction, word) in enumerate(restrictions):
        base = await coupon(pay, percent_off=10)
        code = f"C{number}"
        await pay.v1.promotion_codes.create_async(
            {"promotion": {"type": "coupon", "coupon": base.id}, "code": code, **restriction}
        )
        assert word in await tried(code)
    error = await refused(
        pay.v1.promotion_codes.create_async(
            {"promotion": {"type": "coupon", "coupon": base.id}, "code": "c0"}
        )
    )
    assert error.param == "code"


async def test_first_purchase_only(pay: Stripe) -> None:
    buyer = await pay.v1.customers.create_async({})
    base = await coupon(pay, percent_off=10)
    await pay.v1.promotion_codes.create_async(
        {
            "promotion": {"type": "coupon", "coupon": base.id},
            "code": "FIRST",
            "restrictions": {"first_time_transaction": True},
        }
    )
    first = await pay.session(customer=buyer.id, allow_promotion_codes=True)
    await pay.control(f"sessions/{first.id}/pay", {"promotion_code": "FIRST"})
    second = await pay.session(customer=buyer.id, allow_promotion_codes=True)
    answer = await pay.http.post(
        f"/__control/sessions/{second.id}/pay", json={"promotion_code": "FIRST"}
    )
    assert answer.status_code == 400


async def test_used_up_coupon(pay: Stripe) -> None:
    made = await coupon(pay, percent_off=10, max_redemptions=1)
    await pay.paid(discounts=[{"coupon": made.id}])
    made = await pay.v1.coupons.retrieve_async(made.id)
    assert (made.times_redeemed, made.valid) == (1, False)
    assert (await refused(pay.session(discounts=[{"coupon": made.id}]))).param == "discounts"
    assert (await pay.v1.coupons.update_async(made.id, {"name": "Ten"})).name == "Ten"
    assert (await pay.v1.coupons.delete_async(made.id)).deleted
    assert (await refused(pay.v1.coupons.retrieve_async(made.id))).http_status == 404


@pytest.mark.parametrize(
    ("behavior", "total", "tax"), [("exclusive", 1190, 190), ("inclusive", 1000, 160)]
)
async def test_tax(pay: Stripe, behavior: str, total: int, tax: int) -> None:
    await pay.tune(tax_percent=19)
    price = await pay.price(tax_behavior=behavior)
    buyer = await pay.v1.customers.create_async({})
    session = await pay.session(
        price,
        customer=buyer.id,
        automatic_tax={"enabled": True},
        customer_update={"address": "auto", "name": "auto"},
    )
    assert session.amount_total == 1000
    assert session.automatic_tax.status == "requires_location_inputs"

    await pay.control(f"sessions/{session.id}/pay", {"name": "Ada"})
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert (session.amount_subtotal, session.amount_total) == (1000, total)
    assert session.total_details.amount_tax == tax
    assert session.automatic_tax.status == "complete"
    buyer = await pay.v1.customers.retrieve_async(buyer.id)
    assert (buyer.name, buyer.address.country) == ("Ada", "DE")


async def test_customer_is_made_when_asked(pay: Stripe) -> None:
    assert (await pay.paid()).customer is None
    session = await pay.paid(customer_creation="always", customer_email="ada@example.com")
    made = await pay.v1.customers.retrieve_async(session.customer)
    assert made.email == session.customer_details.email == "ada@example.com"


# -- payment intents --------------------------------------------------------------------------


async def intent(pay: Stripe, method: str, **params: Any) -> Any:
    return await pay.v1.payment_intents.create_async(
        {
            "amount": 1000,
            "currency": "usd",
            "confirm": True,
            "payment_method": method,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            **params,
        }
    )


async def test_intent_by_the_api(pay: Stripe) -> None:
    made = await pay.v1.payment_intents.create_async({"amount": 1000, "currency": "usd"})
    assert made.status == "requires_payment_method"
    made = await pay.v1.payment_intents.confirm_async(made.id, {"payment_method": "pm_card_visa"})
    assert (made.status, made.amount_received) == ("succeeded", 1000)
    error = await refused(pay.v1.payment_intents.cancel_async(made.id))
    assert error.code == "payment_intent_unexpected_state"
    with pytest.raises(stripe.CardError) as caught:
        await intent(pay, "pm_card_visa_chargeDeclined")
    assert caught.value.code == "card_declined"
    assert caught.value.error is not None
    assert caught.value.error.decline_code == "generic_decline"
    waiting = await pay.v1.payment_intents.create_async({"amount": 50, "currency": "usd"})
    assert (await pay.v1.payment_intents.cancel_async(waiting.id)).status == "canceled"


async def test_methods_that_go_wrong_later(pay: Stripe) -> None:
    disputed = await intent(pay, "pm_card_createDispute")
    listed = await pay.v1.disputes.list_async({"payment_intent": disputed.id})
    assert [item.status for item in listed.data] == ["needs_response"]
    evidence = {"evidence": {"uncategorized_text": "winning_evidence"}, "submit": True}
    updated = await pay.v1.disputes.update_async(listed.data[0].id, evidence)
    assert updated.status == "under_review"
    assert (await pay.v1.disputes.retrieve_async(updated.id)).status == "won"

    for method, at_first, in_the_end in (
        ("pm_card_pendingRefund", "pending", "succeeded"),
        ("pm_card_refundFail", "succeeded", "failed"),
    ):
        made = await intent(pay, method)
        refund = await pay.v1.refunds.create_async({"payment_intent": made.id})
        assert refund.status == at_first
        assert (await pay.v1.refunds.retrieve_async(refund.id)).status == in_the_end
