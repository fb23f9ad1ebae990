"""Early fraud warnings, cards that are known again, credit notes, late payments, the portal."""

from typing import Any

import pytest
import stripe

from tests.integration.sandbox_stripe.support import Json, Stripe


async def charge_of(pay: Stripe, session: Any) -> Any:
    intent = await pay.v1.payment_intents.retrieve_async(session.payment_intent)
    return await pay.v1.charges.retrieve_async(intent.latest_charge)


async def warning(pay: Stripe, session: Any) -> Json:
    return await pay.control("fraud-warnings", {"payment_intent": session.payment_intent})


@pytest.mark.parametrize("end", ["refund", "dispute"])
async def test_a_warning_can_be_acted_on_until_its_charge_has_ended(pay: Stripe, end: str) -> None:
    session = await pay.paid()
    opened = await warning(pay, session)
    assert opened["payment_intent"] == session.payment_intent
    params: Any = {"payment_intent": session.payment_intent}
    (listed,) = (await pay.v1.radar.early_fraud_warnings.list_async(params)).data
    assert (listed.id, listed.actionable) == (opened["id"], True)
    if end == "refund":
        await pay.v1.refunds.create_async({**params, "amount": 1})
        found = await pay.v1.radar.early_fraud_warnings.retrieve_async(opened["id"])
        assert found.actionable, "a part is not all"
        await pay.v1.refunds.create_async(params)
    else:
        await pay.control("disputes", params)
    found = await pay.v1.radar.early_fraud_warnings.retrieve_async(opened["id"])
    assert not found.actionable
    await pay.settled()
    types = [hook.type for hook in pay.inbox.hooks if hook.type.startswith("radar.")]
    assert types == ["radar.early_fraud_warning.created", "radar.early_fraud_warning.updated"]
    assert not (await warning(pay, session))["actionable"]


async def test_a_card_is_known_again_whoever_pays_with_it(pay: Stripe) -> None:
    prints = []
    for card in ("one", "one", "two", None, None):
        session = await pay.session()
        await pay.control(f"sessions/{session.id}/pay", {"card": card})
        paid = await pay.v1.checkout.sessions.retrieve_async(session.id)
        details = (await charge_of(pay, paid)).payment_method_details
        prints.append(details.card.fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


async def test_a_page_is_paid_at_its_last_second(pay: Stripe) -> None:
    session = await pay.session()
    await pay.control(f"sessions/{session.id}/expire")
    with pytest.raises(AssertionError):
        await pay.control(f"sessions/{session.id}/pay")
    await pay.control(f"sessions/{session.id}/pay", {"late": True})
    paid = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert (paid.status, paid.payment_status) == ("complete", "paid")


async def test_a_refund_stands_on_one_credit_note(pay: Stripe) -> None:
    session = await pay.paid(invoice_creation={"enabled": True})
    refund = await pay.v1.refunds.create_async(
        {"payment_intent": session.payment_intent, "amount": 400}
    )
    params: Any = {
        "invoice": session.invoice,
        "amount": 400,
        "refunds": [{"refund": refund.id, "amount_refunded": 400}],
    }
    note = await pay.v1.credit_notes.create_async(params)
    assert (note.amount, note.status, note.type) == (400, "issued", "post_payment")
    invoice = await pay.v1.invoices.retrieve_async(session.invoice)
    assert (invoice.status, invoice.post_payment_credit_notes_amount) == ("paid", 400)
    for wrong in (params, {**params, "amount": 401}, {**params, "amount": 700, "refunds": []}):
        with pytest.raises(stripe.InvalidRequestError):
            await pay.v1.credit_notes.create_async(wrong)
    listed = await pay.v1.credit_notes.list_async({"invoice": session.invoice})
    assert [each.id for each in listed.data] == [note.id]


async def test_the_portal_wants_a_configuration(pay: Stripe) -> None:
    customer = await pay.v1.customers.create_async({"name": "Ada"})
    params: Any = {"customer": customer.id, "return_url": "http://shop.test/"}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await pay.v1.billing_portal.sessions.create_async(params)
    assert "No configuration provided" in str(caught.value)
    made = await pay.v1.billing_portal.configurations.create_async(
        {"features": {"invoice_history": {"enabled": True}}, "metadata": {"a": "b"}}
    )
    assert not made.is_default
    (listed,) = (await pay.v1.billing_portal.configurations.list_async({"active": True})).data
    assert (listed.id, listed.metadata["a"]) == (made.id, "b")
    await pay.v1.billing_portal.sessions.create_async({**params, "configuration": made.id})
    await pay.tune(portal_saved=True)
    await pay.v1.billing_portal.sessions.create_async(params)
