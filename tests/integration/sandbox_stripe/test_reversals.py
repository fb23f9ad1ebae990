"""Refunds and disputes."""

from typing import Any

import pytest
import stripe

from tests.integration.sandbox_stripe.support import Stripe


async def refund(pay: Stripe, session: Any, **params: Any) -> Any:
    return await pay.v1.refunds.create_async({"payment_intent": session.payment_intent, **params})


async def refused(pay: Stripe, session: Any, **params: Any) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await refund(pay, session, **params)
    return caught.value


async def test_partial_refunds_until_nothing_is_left(pay: Stripe) -> None:
    session = await pay.paid()
    first = await refund(pay, session, amount=400, metadata={"refund_request_id": "r-1"})
    assert (first.status, first.amount) == ("succeeded", 400)

    assert (await refused(pay, session, amount=601)).param == "amount"
    assert (await refund(pay, session)).amount == 600
    assert (await refused(pay, session)).code == "charge_already_refunded"

    listed = await pay.v1.refunds.list_async({"payment_intent": session.payment_intent})
    assert [item.amount for item in listed.data] == [600, 400]
    await pay.settled()
    charges = [hook.object for hook in pay.inbox.of("charge.refunded")]
    assert [charge["amount_refunded"] for charge in charges] == [400, 1000]
    assert [charge["refunded"] for charge in charges] == [False, True]


async def test_refund_that_fails_later_frees_its_amount(pay: Stripe) -> None:
    session = await pay.paid()
    made = await refund(pay, session)
    await pay.control(f"refunds/{made.id}", {"status": "failed"})

    made = await pay.v1.refunds.retrieve_async(made.id)
    assert (made.status, made.failure_reason) == ("failed", "expired_or_canceled_card")
    await pay.settled()
    assert pay.inbox.last("refund.updated").event["data"]["previous_attributes"] == {
        "status": "succeeded",
        "failure_reason": None,
    }
    assert pay.inbox.last("refund.failed").object["id"] == made.id
    assert (await refund(pay, session)).amount == 1000


async def test_pending_refund(pay: Stripe) -> None:
    await pay.tune(refunds_pending=True)
    session = await pay.paid()
    made = await refund(pay, session)
    assert (made.status, made.pending_reason) == ("pending", "processing")

    await pay.control(f"refunds/{made.id}", {"status": "succeeded"})
    assert (await pay.v1.refunds.retrieve_async(made.id)).status == "succeeded"


async def test_dispute_won(pay: Stripe) -> None:
    session = await pay.paid()
    opened = await pay.control(
        "disputes", {"payment_intent": session.payment_intent, "amount": 300}
    )
    assert (opened["status"], opened["amount"]) == ("needs_response", 300)
    assert (await refused(pay, session)).code == "charge_disputed"

    await pay.control(f"disputes/{opened['id']}", {"status": "won"})
    listed = await pay.v1.disputes.list_async({"payment_intent": session.payment_intent})
    assert [(item.id, item.status) for item in listed.data] == [(opened["id"], "won")]
    await pay.settled()
    assert [name for name in pay.inbox.types if name.startswith("charge.dispute.")] == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]
    assert (await refund(pay, session)).status == "succeeded"


async def test_inquiry_holds_nothing_until_it_escalates(pay: Stripe) -> None:
    session = await pay.paid()
    opened = await pay.control(
        "disputes", {"payment_intent": session.payment_intent, "inquiry": True}
    )
    assert opened["status"] == "warning_needs_response"
    assert (await refund(pay, session, amount=100)).status == "succeeded"

    await pay.control(f"disputes/{opened['id']}", {"status": "needs_response"})
    assert (await refused(pay, session)).code == "charge_disputed"
    closed = await pay.v1.disputes.close_async(opened["id"])
    assert closed.status == "lost"
    await pay.settled()
    assert "charge.dispute.funds_withdrawn" in pay.inbox.types
    assert "charge.dispute.funds_reinstated" not in pay.inbox.types


async def test_inquiry_that_ends_well_moves_no_money(pay: Stripe) -> None:
    session = await pay.paid()
    opened = await pay.control(
        "disputes", {"payment_intent": session.payment_intent, "inquiry": True}
    )
    for status in ("warning_closed", "won"):
        moved = await pay.control(f"disputes/{opened['id']}", {"status": status})
        assert moved["balance_transactions"] == []
    await pay.settled()
    assert not any("funds" in name for name in pay.inbox.types)
