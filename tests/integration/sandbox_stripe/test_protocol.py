"""Keys, parameters, errors, lists, expansion: what holds for every resource."""

from typing import Any

import pytest
import stripe

from sandbox.stripe.config import API_VERSION
from sandbox.stripe.operations import _TABLE
from sandbox.stripe.schema import fields_of
from tests.integration.sandbox_stripe.conftest import MakeStripe
from tests.integration.sandbox_stripe.support import CANCEL, KEY, SUCCESS, Stripe


async def refused(call: Any) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await call
    return caught.value


# -- keys and versions ------------------------------------------------------------------------


def test_serves_the_version_of_the_installed_sdk() -> None:
    assert stripe.api_version == API_VERSION


@pytest.mark.parametrize("key", ["sk_live_1", "pk_test_1", "rk_test_other", "nonsense"])
async def test_other_keys_are_refused(make_stripe: MakeStripe, key: str) -> None:
    pay = await make_stripe(keys=frozenset({KEY}))
    with pytest.raises(stripe.AuthenticationError) as caught:
        await pay.client(key).v1.customers.list_async()
    assert caught.value.http_status == 401
    assert f": {key}" not in str(caught.value)
    await pay.v1.customers.list_async()


async def test_any_test_key_without_a_list(pay: Stripe) -> None:
    assert not (await pay.client("rk_test_1").v1.customers.create_async({})).livemode
    with pytest.raises(stripe.AuthenticationError):
        await pay.client("sk_live_1").v1.customers.list_async()


async def test_key_as_curl_sends_it(pay: Stripe) -> None:
    assert (await pay.http.get("/v1/customers", auth=(KEY, ""))).status_code == 200
    for authorization in ({}, {"authorization": "Basic %"}, {"authorization": "Digest x"}):
        assert (await pay.http.get("/v1/customers", headers=authorization)).status_code == 401


async def test_another_version_is_refused(pay: Stripe) -> None:
    error = await refused(
        pay.v1.customers.list_async({}, {"stripe_version": "2024-06-20"}),
    )
    assert "2024-06-20" in str(error)


async def test_unknown_url(pay: Stripe) -> None:
    error = await refused(pay.v1.payouts.list_async())
    assert error.http_status == 404
    assert error.user_message == "Unrecognized request URL (GET: /v1/payouts)."


# -- parameters -------------------------------------------------------------------------------


def session_params(**changes: Any) -> dict[str, Any]:
    return {
        "mode": "payment",
        "line_items": [{"price": "price_1", "quantity": 1}],
        "success_url": SUCCESS,
        "cancel_url": CANCEL,
        **changes,
    }


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"payment_method_types": ["card"]}, "parameter_unknown", "payment_method_types"),
        (
            {"line_items": [{"price": "price_1", "quanity": 1}]},
            "parameter_unknown",
            "line_items[0][quanity]",
        ),
        (
            {"invoice_creation": {"enabled": True, "invoice_data": {"metdata": {}, "x": 1}}},
            "parameter_unknown",
            "invoice_creation[invoice_data][x]",
        ),
        (
            {"line_items": [{"price_data": {"unit_amount": 5}, "quantity": 1}]},
            "parameter_missing",
            "line_items[0][price_data][currency]",
        ),
        (
            {"line_items": [{"price": "price_1", "quantity": "one"}]},
            "parameter_invalid_integer",
            "line_items[0][quantity]",
        ),
        ({"customer": ""}, "parameter_invalid_empty", "customer"),
        ({"mode": "paymnt"}, None, "mode"),
        ({"allow_promotion_codes": "maybe"}, None, "allow_promotion_codes"),
        ({"line_items": "price_1"}, None, "line_items"),
        ({"line_items": [{"price": "price_1", "quantity": 1}]}, "resource_missing", None),
    ],
)
async def test_parameters_are_checked_by_their_types(
    pay: Stripe, change: dict[str, Any], code: str | None, param: str | None
) -> None:
    error = await refused(pay.v1.checkout.sessions.create_async(session_params(**change)))
    assert error.http_status == 400
    assert error.code == code
    assert error.param == (param or "line_items[0][price]")


def test_every_parameter_type_of_the_sdk_is_understood() -> None:
    for _, path, params, _ in _TABLE:
        assert isinstance(fields_of(params), dict), path


async def test_missing_objects(pay: Stripe) -> None:
    error = await refused(pay.v1.customers.retrieve_async("cus_none"))
    assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id")
    assert error.user_message == "No such customer: 'cus_none'"
    assert error.request_id is not None
    error = await refused(pay.v1.refunds.create_async({"payment_intent": "pi_none"}))
    assert (error.http_status, error.code, error.param) == (
        400,
        "resource_missing",
        "payment_intent",
    )


async def test_metadata(pay: Stripe) -> None:
    made = await pay.v1.customers.create_async({"metadata": {"a": "1", "b": "2"}})
    made = await pay.v1.customers.update_async(made.id, {"metadata": {"a": "", "c": "3"}})
    assert made.metadata.to_dict() == {"b": "2", "c": "3"}
    made = await pay.v1.customers.update_async(made.id, {"metadata": ""})
    assert made.metadata.to_dict() == {}
    for metadata in (
        {"k" * 41: "v"},
        {"k": "v" * 501},
        {f"k{number}": "v" for number in range(51)},
    ):
        error = await refused(pay.v1.customers.update_async(made.id, {"metadata": metadata}))
        assert str(error.param).startswith("metadata")


async def test_customer_life(pay: Stripe) -> None:
    made = await pay.v1.customers.create_async({"email": "ada@example.com", "name": "Ada"})
    made = await pay.v1.customers.update_async(made.id, {"name": "Ada L."})
    assert (made.email, made.name) == ("ada@example.com", "Ada L.")
    found = await pay.v1.customers.list_async({"email": "ada@example.com"})
    assert [item.id for item in found.data] == [made.id]

    assert (await pay.v1.customers.delete_async(made.id)).deleted
    assert (await pay.v1.customers.retrieve_async(made.id)).deleted
    assert (await pay.v1.customers.list_async()).data == []
    error = await refused(pay.v1.customers.update_async(made.id, {"name": "x"}))
    assert error.code == "resource_missing"
    error = await refused(pay.session(customer=made.id))
    assert (error.code, error.param) == ("resource_missing", "customer")
    await pay.settled()
    updated = pay.inbox.last("customer.updated").event
    assert updated["data"]["previous_attributes"] == {"name": "Ada"}
    assert updated["request"]["id"].startswith("req_")
    assert updated["request"]["idempotency_key"]


# -- lists and expansion ----------------------------------------------------------------------


async def test_pages(pay: Stripe) -> None:
    ids = [(await pay.v1.customers.create_async({})).id for _ in range(7)]
    newest_first = ids[::-1]

    page = await pay.v1.customers.list_async({"limit": 3})
    assert [item.id for item in page.data] == newest_first[:3]
    assert page.has_more
    page = await pay.v1.customers.list_async({"limit": 4, "starting_after": newest_first[2]})
    assert [item.id for item in page.data] == newest_first[3:]
    assert not page.has_more
    page = await pay.v1.customers.list_async({"limit": 2, "ending_before": newest_first[4]})
    assert [item.id for item in page.data] == newest_first[2:4]
    assert page.has_more

    walked = await pay.v1.customers.list_async({"limit": 2})
    assert [item.id async for item in walked.auto_paging_iter()] == newest_first


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"starting_after": "cus_none"}, "starting_after"),
    ],
)
async def test_bad_pages(pay: Stripe, params: dict[str, Any], param: str) -> None:
    error = await refused(pay.v1.customers.list_async(params))
    assert error.param == param


async def test_filters_of_sessions(pay: Stripe) -> None:
    customer = await pay.v1.customers.create_async({})
    price = await pay.price()
    first = await pay.session(price, customer=customer.id)
    await pay.control("clock", {"advance_seconds": 100})
    second = await pay.session(price)
    await pay.control(f"sessions/{second.id}/pay")
    second = await pay.v1.checkout.sessions.retrieve_async(second.id)

    async def found(**params: Any) -> list[str]:
        listed = await pay.v1.checkout.sessions.list_async(params)
        return [item.id for item in listed.data]

    assert await found() == [second.id, first.id]
    assert await found(customer=customer.id) == [first.id]
    assert await found(payment_intent=second.payment_intent) == [second.id]
    assert await found(status="open") == [first.id]
    assert await found(created={"gte": second.created}) == [second.id]
    assert await found(created={"lt": second.created}) == [first.id]
    assert await found(created={"gt": second.created}) == []
    assert await found(created=first.created) == [first.id]


async def test_expansion(pay: Stripe) -> None:
    customer = await pay.v1.customers.create_async({"name": "Ada"})
    session = await pay.paid(customer=customer.id)
    await pay.v1.refunds.create_async({"payment_intent": session.payment_intent, "amount": 1})

    listed = await pay.v1.checkout.sessions.list_async(
        {"expand": ["data.customer", "data.payment_intent.latest_charge.refunds"]}
    )
    assert listed.data[0].customer.name == "Ada"
    charge = listed.data[0].payment_intent.latest_charge
    assert [item.amount for item in charge.refunds.data] == [1]
    again = await pay.v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["line_items.data.price.product"]}
    )
    assert again.line_items.data[0].price.product.name == "100 credits"
    plain = (await pay.v1.checkout.sessions.retrieve_async(session.id)).to_dict()
    assert "line_items" not in plain
    assert plain["customer"] == customer.id

    for path in ("nonsense", "metadata", "customer.name", "a.b.c.d.e"):
        error = await refused(
            pay.v1.checkout.sessions.retrieve_async(session.id, {"expand": [path]})
        )
        assert error.param == "expand"


# -- shapes -----------------------------------------------------------------------------------

ON_REQUEST = {
    "checkout.session": {"line_items"},
    "charge": {"refunds"},
    "customer": {"cash_balance", "sources", "subscriptions", "tax", "tax_ids"},
    "price": {"currency_options", "tiers"},
    "coupon": {"applies_to", "currency_options"},
    "invoice": {"payments", "confirmation_secret"},
    "refund": {
        "failure_balance_transaction",
        "failure_reason",
        "instructions_email",
        "next_action",
        "pending_reason",
    },
    "webhook_endpoint": {"secret"},
}


async def test_objects_have_the_fields_that_the_sdk_declares(pay: Stripe) -> None:
    customer = await pay.v1.customers.create_async({})
    session = await pay.paid(customer=customer.id, invoice_creation={"enabled": True})
    intent = await pay.v1.payment_intents.retrieve_async(session.payment_intent)
    coupon = await pay.v1.coupons.create_async({"percent_off": 10})
    opened = await pay.control("disputes", {"charge": intent.latest_charge, "inquiry": True})
    await pay.tune(portal_saved=True)
    portal = await pay.v1.billing_portal.sessions.create_async({"customer": customer.id})
    code = {"promotion": {"type": "coupon", "coupon": coupon.id}}
    objects = [
        customer,
        session,
        intent,
        coupon,
        portal,
        await pay.price(),
        (await pay.v1.products.list_async()).data[0],
        await pay.v1.charges.retrieve_async(intent.latest_charge),
        await pay.v1.refunds.create_async({"payment_intent": intent.id}),
        await pay.v1.disputes.retrieve_async(opened["id"]),
        await pay.v1.promotion_codes.create_async(code),
        await pay.v1.invoices.retrieve_async(session.invoice),
        (await pay.v1.invoice_payments.list_async({"invoice": session.invoice})).data[0],
        (await pay.v1.webhook_endpoints.list_async()).data[0],
        (await pay.v1.events.list_async()).data[0],
        await pay.v1.accounts.retrieve_current_async(),
    ]
    for obj in objects:
        kind = type(obj)
        declared = set(kind.__annotations__) - {"OBJECT_NAME", "deleted"}
        assert declared - set(obj.to_dict()) == ON_REQUEST.get(obj.object, set()), kind
        assert set(obj.to_dict()) <= declared, kind
