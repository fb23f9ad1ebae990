"""Sessions from their creation to the money, as the API and the events tell it."""

from tests.integration.sandbox_stripe.support import SUCCESS, Stripe


async def test_card_payment(pay: Stripe) -> None:
    metadata = {"order_id": "o-1"}
    session = await pay.session(
        client_reference_id="o-1",
        metadata=metadata,
        payment_intent_data={"metadata": metadata, "description": "100 credits"},
    )
    assert session.status == "open"
    assert session.payment_status == "unpaid"
    assert session.payment_intent is None
    assert session.amount_total == 1000

    reply = await pay.control(f"sessions/{session.id}/pay")
    assert reply["return_url"] == SUCCESS.replace("{CHECKOUT_SESSION_ID}", session.id)

    session = await pay.v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["payment_intent.latest_charge", "line_items"]}
    )
    assert session.status == "complete"
    assert session.payment_status == "paid"
    intent = session.payment_intent
    assert intent.status == "succeeded"
    assert intent.amount_received == 1000
    assert intent.metadata.order_id == "o-1"
    assert intent.latest_charge.metadata.order_id == "o-1"
    assert session.line_items.data[0].quantity == 1

    hooks = await pay.settled()
    assert all(hook.verifies() for hook in hooks)
    completed = pay.inbox.last("checkout.session.completed")
    assert completed.object["id"] == session.id
    assert completed.object["metadata"] == metadata
    assert completed.object["payment_status"] == "paid"
    assert {"charge.succeeded", "payment_intent.succeeded"} <= set(pay.inbox.types)


async def test_free_order(pay: Stripe) -> None:
    coupon = await pay.v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    await pay.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "FREE", "max_redemptions": 1}
    )
    session = await pay.session(allow_promotion_codes=True)

    await pay.control(f"sessions/{session.id}/pay", {"promotion_code": "free"})
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert session.payment_status == "no_payment_required"
    assert session.amount_total == 0
    assert session.amount_subtotal == 1000
    assert session.payment_intent is None
    codes = await pay.v1.promotion_codes.list_async({"code": "FREE"})
    assert codes.data[0].times_redeemed == 1
    assert not codes.data[0].active


async def test_slow_payment(pay: Stripe) -> None:
    for succeeded in (True, False):
        session = await pay.session()
        await pay.control(f"sessions/{session.id}/pay", {"slow": True})
        session = await pay.v1.checkout.sessions.retrieve_async(
            session.id, {"expand": ["payment_intent"]}
        )
        assert (session.status, session.payment_status) == ("complete", "unpaid")
        assert session.payment_intent.status == "processing"

        await pay.control(f"sessions/{session.id}/settle", {"succeeded": succeeded})
        session = await pay.v1.checkout.sessions.retrieve_async(session.id)
        assert session.payment_status == ("paid" if succeeded else "unpaid")
        await pay.settled()
        end = "succeeded" if succeeded else "failed"
        assert pay.inbox.last(f"checkout.session.async_payment_{end}").object["id"] == session.id


async def test_declined_card_leaves_the_session_open(pay: Stripe) -> None:
    session = await pay.session()
    await pay.control(f"sessions/{session.id}/decline")

    await pay.settled()
    failed = pay.inbox.last("payment_intent.payment_failed").object
    assert failed["last_payment_error"]["decline_code"] == "generic_decline"
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert session.status == "open"

    await pay.control(f"sessions/{session.id}/pay")
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert session.payment_status == "paid"
    assert session.payment_intent == failed["id"]


async def test_expiry(pay: Stripe) -> None:
    session = await pay.session(expires_at=pay.box.now() + 1800)
    asked = await pay.session()
    await pay.v1.checkout.sessions.expire_async(asked.id)

    await pay.control("clock", {"advance_seconds": 1801})
    await pay.settled()
    assert [hook.object["id"] for hook in pay.inbox.of("checkout.session.expired")] == [
        asked.id,
        session.id,
    ]
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert session.status == "expired"
    assert session.url is None


async def test_invoice(pay: Stripe) -> None:
    customer = await pay.v1.customers.create_async({"email": "ada@example.com"})
    session = await pay.paid(customer=customer.id, invoice_creation={"enabled": True})

    invoice = await pay.v1.invoices.retrieve_async(session.invoice)
    assert invoice.status == "paid"
    assert invoice.customer == customer.id
    assert (await pay.http.get(invoice.hosted_invoice_url)).status_code == 200
    assert (await pay.http.get(invoice.invoice_pdf)).content.startswith(b"%PDF-1.4")
    listed = await pay.v1.invoices.list_async({"customer": customer.id})
    assert [item.id for item in listed.data] == [invoice.id]
