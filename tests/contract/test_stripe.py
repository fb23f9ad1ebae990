"""What our code relies on in Stripe's API. What happens on the hosted page is not among it."""

import time
from typing import Any

import pytest
import stripe

from tests.contract.conftest import Contract

SUCCESS = "https://example.com/return?session_id={CHECKOUT_SESSION_ID}"
CANCEL = "https://example.com/billing"


async def refused(call: Any) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await call
    assert caught.value.request_id
    return caught.value


async def price(contract: Contract, amount: int = 1000, **changes: Any) -> Any:
    return await contract.v1.prices.create_async(
        {
            "currency": "usd",
            "unit_amount": amount,
            "product_data": {"name": f"Contract {contract.run}"},
            **changes,
        }
    )


async def session(contract: Contract, **changes: Any) -> Any:
    made = await price(contract)
    return await contract.v1.checkout.sessions.create_async(
        {
            "mode": "payment",
            "line_items": [{"price": made.id, "quantity": 1}],
            "success_url": SUCCESS,
            "cancel_url": CANCEL,
            **changes,
        }
    )


async def intent(contract: Contract, method: str = "pm_card_visa") -> Any:
    return await contract.v1.payment_intents.create_async(
        {
            "amount": 1000,
            "currency": "usd",
            "confirm": True,
            "payment_method": method,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
    )


# -- keys, errors, idempotency ----------------------------------------------------------------


async def test_wrong_key(contract: Contract) -> None:
    with pytest.raises(stripe.AuthenticationError) as caught:
        await contract.client_of("sk_live_nonsense").v1.customers.list_async()
    assert caught.value.http_status == 401


async def test_missing_object(contract: Contract) -> None:
    error = await refused(contract.v1.customers.retrieve_async("cus_none"))
    assert (error.http_status, error.code) == (404, "resource_missing")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"colour": "red"}, "parameter_unknown", "colour"),
        (
            {"line_items": [{"price": "price_none", "quanity": 1}]},
            "parameter_unknown",
            "line_items[0][quanity]",
        ),
        (
            {"line_items": [{"price": "price_none", "quantity": 1}]},
            "resource_missing",
            "line_items[0][price]",
        ),
        ({"customer": "cus_none"}, "resource_missing", "customer"),
    ],
)
async def test_bad_parameter(
    contract: Contract, change: dict[str, Any], code: str, param: str
) -> None:
    error = await refused(session(contract, **change))
    assert (error.http_status, error.code, error.param) == (400, code, param)


async def test_idempotency_key(contract: Contract) -> None:
    options = {"idempotency_key": f"contract:{contract.run}"}
    first = await contract.v1.customers.create_async({"name": "Ada"}, options)
    again = await contract.v1.customers.create_async({"name": "Ada"}, options)
    assert again.id == first.id
    assert again.last_response.headers["idempotent-replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        await contract.v1.customers.create_async({"name": "Eve"}, options)


# -- customers, catalogue, lists --------------------------------------------------------------


async def test_customer(contract: Contract) -> None:
    made = await contract.v1.customers.create_async({"name": "Ada", "metadata": {"a": "1"}})
    assert not made.livemode
    made = await contract.v1.customers.update_async(made.id, {"metadata": {"a": "", "b": "2"}})
    assert made.metadata.to_dict() == {"b": "2"}
    assert (await contract.v1.customers.delete_async(made.id)).deleted
    assert (await contract.v1.customers.retrieve_async(made.id)).deleted


async def test_lookup_key_is_transferred(contract: Contract) -> None:
    key = f"credits_{contract.run}"
    old = await price(contract, lookup_key=key)
    await refused(price(contract, lookup_key=key))
    new = await price(contract, 1200, lookup_key=key, transfer_lookup_key=True)
    found = await contract.v1.prices.list_async({"lookup_keys": [key], "active": True})
    assert [item.id for item in found.data] == [new.id]
    assert (await contract.v1.prices.retrieve_async(old.id)).lookup_key is None


async def test_pages_are_newest_first(contract: Contract) -> None:
    email = f"{contract.run}@example.com"
    ids = [(await contract.v1.customers.create_async({"email": email})).id for _ in range(3)]

    async def page(**params: Any) -> Any:
        return await contract.v1.customers.list_async({"email": email, **params})

    first = await page(limit=2)
    assert sorted(item.id for item in [*first.data, *(await page()).data[2:]]) == sorted(ids)
    assert first.has_more
    rest = await page(limit=2, starting_after=first.data[-1].id)
    assert len(rest.data) == 1
    assert not rest.has_more
    assert (await refused(page(limit=101))).param == "limit"
    assert (await refused(page(starting_after="cus_none"))).param == "starting_after"


async def test_promotion_code(contract: Contract) -> None:
    coupon = await contract.v1.coupons.create_async({"percent_off": 25, "duration": "once"})
    code = await contract.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": f"C{contract.run}"}
    )
    assert (code.active, code.promotion.coupon) == (True, coupon.id)
    made = await session(contract, discounts=[{"promotion_code": code.id}])
    assert (made.amount_subtotal, made.amount_total) == (1000, 750)
    assert made.total_details.amount_discount == 250
    await refused(session(contract, discounts=[{"coupon": coupon.id}], allow_promotion_codes=True))


# -- checkout ---------------------------------------------------------------------------------


async def test_session(contract: Contract) -> None:
    buyer = await contract.v1.customers.create_async({"email": "ada@example.com"})
    metadata = {"order_id": contract.run}
    made = await session(
        contract,
        customer=buyer.id,
        client_reference_id=contract.run,
        metadata=metadata,
        payment_intent_data={"metadata": metadata, "description": "100 credits"},
        invoice_creation={"enabled": True, "invoice_data": {"metadata": metadata}},
        adaptive_pricing={"enabled": False},
        allow_promotion_codes=True,
        expires_at=int(time.time()) + 3600,
    )
    assert (made.status, made.payment_status, made.mode) == ("open", "unpaid", "payment")
    assert (made.amount_subtotal, made.amount_total, made.currency) == (1000, 1000, "usd")
    assert made.payment_intent is None
    assert made.invoice is None
    assert made.client_reference_id == contract.run
    assert made.metadata.to_dict() == metadata
    assert made.success_url == SUCCESS
    assert made.url

    again = await contract.v1.checkout.sessions.retrieve_async(
        made.id, {"expand": ["line_items", "customer"]}
    )
    assert again.customer.email == "ada@example.com"
    (line,) = again.line_items.data
    assert (line.quantity, line.price.unit_amount) == (1, 1000)
    listed = await contract.v1.checkout.sessions.list_async(
        {"customer": buyer.id, "created": {"gte": made.created}}
    )
    assert [item.id for item in listed.data] == [made.id]

    expired = await contract.v1.checkout.sessions.expire_async(made.id)
    assert (expired.status, expired.url) == ("expired", None)
    await refused(contract.v1.checkout.sessions.expire_async(made.id))


async def test_lifetime_of_a_session(contract: Contract) -> None:
    for seconds in (600, 90_000):
        error = await refused(session(contract, expires_at=int(time.time()) + seconds))
        assert error.param == "expires_at"


async def test_customer_and_address_exclude_each_other(contract: Contract) -> None:
    buyer = await contract.v1.customers.create_async({})
    await refused(session(contract, customer=buyer.id, customer_email="ada@example.com"))


# -- refunds and disputes ---------------------------------------------------------------------


async def test_refunds(contract: Contract) -> None:
    paid = await intent(contract)
    assert (paid.status, paid.amount_received) == ("succeeded", 1000)

    async def refund(**params: Any) -> Any:
        return await contract.v1.refunds.create_async({"payment_intent": paid.id, **params})

    first = await refund(amount=400, reason="requested_by_customer", metadata={"id": "r1"})
    assert (first.status, first.amount) == ("succeeded", 400)
    assert (await refused(refund(amount=601))).http_status == 400
    assert (await refund()).amount == 600
    assert (await refused(refund())).code == "charge_already_refunded"
    listed = await contract.v1.refunds.list_async({"payment_intent": paid.id})
    assert sorted(item.amount for item in listed.data) == [400, 600]
    charge = await contract.v1.charges.retrieve_async(paid.latest_charge)
    assert (charge.refunded, charge.amount_refunded) == (True, 1000)


async def test_declined_card(contract: Contract) -> None:
    with pytest.raises(stripe.CardError) as caught:
        await intent(contract, "pm_card_visa_chargeDeclined")
    assert (caught.value.http_status, caught.value.code) == (402, "card_declined")


async def test_dispute_is_won(contract: Contract) -> None:
    paid = await intent(contract, "pm_card_createDispute")

    async def disputes() -> Any:
        return (await contract.v1.disputes.list_async({"payment_intent": paid.id})).data

    (opened,) = await contract.eventually(disputes)
    assert (opened.status, opened.amount) == ("needs_response", 1000)
    error = await refused(contract.v1.refunds.create_async({"payment_intent": paid.id}))
    assert error.code == "charge_disputed"
    await contract.v1.disputes.update_async(
        opened.id, {"evidence": {"uncategorized_text": "winning_evidence"}, "submit": True}
    )

    async def won() -> bool:
        return bool((await contract.v1.disputes.retrieve_async(opened.id)).status == "won")

    assert await contract.eventually(won)


@pytest.mark.parametrize(
    ("method", "end"), [("pm_card_refundFail", "failed"), ("pm_card_pendingRefund", "succeeded")]
)
async def test_refund_ends_later(contract: Contract, method: str, end: str) -> None:
    paid = await intent(contract, method)
    made = await contract.v1.refunds.create_async({"payment_intent": paid.id})
    assert made.status != end

    async def ended() -> bool:
        return bool((await contract.v1.refunds.retrieve_async(made.id)).status == end)

    assert await contract.eventually(ended)


# -- events -----------------------------------------------------------------------------------


async def test_events(contract: Contract) -> None:
    key = f"event:{contract.run}"
    made = await contract.v1.customers.create_async({"name": "Ada"}, {"idempotency_key": key})
    await contract.v1.customers.update_async(made.id, {"name": "Eve"})

    async def events() -> Any:
        listed = await contract.v1.events.list_async(
            {
                "types": ["customer.created", "customer.updated"],
                "created": {"gte": made.created},
                "limit": 100,
            }
        )
        found = {event.type: event for event in listed.data if event.data.object["id"] == made.id}
        return len(found) == 2 and found

    found = await contract.eventually(events)
    assert found["customer.created"].request.idempotency_key == key
    assert found["customer.created"].data.object["name"] == "Ada"
    assert found["customer.updated"].data.previous_attributes["name"] == "Ada"
    assert found["customer.created"].api_version


async def test_webhook_endpoint(contract: Contract) -> None:
    made = await contract.v1.webhook_endpoints.create_async(
        {
            "url": f"https://example.com/{contract.run}",
            "enabled_events": ["checkout.session.completed", "refund.failed"],
            "api_version": "2026-10-28.endive",
        }
    )
    assert made.secret.startswith("whsec_")
    assert made.api_version == "2026-10-28.endive"
    shown = await contract.v1.webhook_endpoints.retrieve_async(made.id)
    assert "secret" not in shown.to_dict()
    assert (await contract.v1.webhook_endpoints.delete_async(made.id)).deleted


async def test_a_page_asks_for_what_an_invoice_needs(contract: Contract) -> None:
    customer = await contract.v1.customers.create_async({"metadata": {"run": contract.run}})
    opened = await session(
        contract,
        customer=customer.id,
        billing_address_collection="required",
        customer_update={"address": "auto", "name": "auto"},
        tax_id_collection={"enabled": True},
        invoice_creation={"enabled": True},
    )
    assert (opened.status, opened.billing_address_collection) == ("open", "required")
    assert opened.tax_id_collection.enabled


async def test_an_archived_price_is_refused_by_its_name(contract: Contract) -> None:
    made = await price(contract)
    await contract.v1.prices.update_async(made.id, {"active": False})
    error = await refused(
        contract.v1.checkout.sessions.create_async(
            {
                "mode": "payment",
                "line_items": [{"price": made.id, "quantity": 1}],
                "success_url": SUCCESS,
            }
        )
    )
    assert "price" in str(error.param)
    assert error.code != "resource_missing"


async def test_a_page_with_too_little_time_is_refused_by_its_name(contract: Contract) -> None:
    error = await refused(session(contract, expires_at=int(time.time()) + 600))
    assert error.param == "expires_at"


async def test_sessions_of_one_customer(contract: Contract) -> None:
    customer = await contract.v1.customers.create_async({"metadata": {"run": contract.run}})
    opened = await session(contract, customer=customer.id)
    await session(contract)
    listed = await contract.v1.checkout.sessions.list_async({"customer": customer.id})
    assert [each.id for each in listed.data] == [opened.id]


async def test_a_card_has_a_fingerprint(contract: Contract) -> None:
    prints = []
    for method in ("pm_card_visa", "pm_card_visa", "pm_card_mastercard"):
        paid = await intent(contract, method)
        charge = await contract.v1.charges.retrieve_async(str(paid.latest_charge))
        prints.append(charge.payment_method_details.card.fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert all(prints)


async def test_a_portal_configuration(contract: Contract) -> None:
    made = await contract.v1.billing_portal.configurations.create_async(
        {
            "features": {
                "customer_update": {
                    "enabled": True,
                    "allowed_updates": ["email", "name", "address", "tax_id"],
                },
                "invoice_history": {"enabled": True},
                "payment_method_update": {"enabled": True},
            },
            "default_return_url": "https://example.com/billing",
            "metadata": {"run": contract.run},
        }
    )
    listed = await contract.v1.billing_portal.configurations.list_async({"active": True})
    assert made.id in {each.id for each in listed.data}
    customer = await contract.v1.customers.create_async({"metadata": {"run": contract.run}})
    visit = await contract.v1.billing_portal.sessions.create_async(
        {"customer": customer.id, "configuration": made.id}
    )
    assert visit.url
    await contract.v1.billing_portal.configurations.update_async(made.id, {"active": False})


async def test_warnings_and_reversals_are_listed_by_time(contract: Contract) -> None:
    since = {"created": {"gte": int(time.time()) - 60, "lt": int(time.time()) + 60}}
    for service in (
        contract.v1.radar.early_fraud_warnings,
        contract.v1.refunds,
        contract.v1.disputes,
    ):
        assert (await service.list_async(since)).object == "list"
