"""The provider's records of a day against ours."""

from datetime import UTC, datetime, timedelta
from typing import Any

from core.payments import compare
from core.payments.stripe.wire import call
from core.payments.types import DayDifference
from tests.harness.payments import DirectBuyer, PaymentsHarness


async def _today(payments: PaymentsHarness) -> list[DayDifference]:
    today = datetime.now(UTC).date()
    return await compare.compare_day(payments.ctx.db, payments.provider, today)


async def test_refunds_and_disputes_that_were_missed_are_synced(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    refunded, disputed = await ada.buy("credits_10"), await ada.buy("credits_50")
    await payments.refund_at_stripe(refunded.provider_payment_id)
    await payments.dispute(disputed)
    assert await _today(payments) == []
    assert payments.find(refunded).state == "refunded"
    assert payments.find(disputed).state == "disputed"


async def test_what_cannot_be_synced_differs(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    refund = await payments.refund_at_stripe(order.provider_payment_id, 500)
    await payments.fault("error_before", "checkout/sessions/*", times=None, method="GET")
    assert await _today(payments) == [DayDifference(refund, theirs=500, ours=None)]
    assert payments.health()["days_differing"] == 1


async def test_a_day_that_was_healed_differs_no_more(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    assert len(await _today(payments)) == 1
    await payments.sync(order)
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    await compare.compare_days(payments.ctx.db, payments.provider, tomorrow)
    assert payments.health()["days_differing"] == 0


async def test_another_products_sessions_are_not_ours(payments: PaymentsHarness) -> None:
    price: Any = {
        "currency": "eur",
        "unit_amount": 900,
        "product_data": {"name": "Another product"},
    }
    made = await call(payments.provider.v1.prices.create_async, price)
    for more in ({}, {"client_reference_id": "another"}):
        session = await call(
            payments.provider.v1.checkout.sessions.create_async,
            {
                "mode": "payment",
                "line_items": [{"price": made["id"], "quantity": 1}],
                "success_url": "https://another.example/",
                "metadata": {"order_id": "another", "user_id": "7"},
                **more,
            },
        )
        await payments.control(f"sessions/{session['id']}/pay")
    assert await _today(payments) == []


async def test_what_was_paid_twice_or_returned_in_review_is_known(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    first = await ada.order()
    await payments.control(f"sessions/{first.session_id}/expire")
    await payments.sync(first)
    again = await ada.retry(first)
    await payments.pay(again)
    await payments.pay(first, late=True)
    await payments.sync(first)
    reviewed = await payments.buyer().order()
    await payments.pay(reviewed)
    await payments.change("checkout.session", reviewed.session_id, {"currency": "jpy"})
    await payments.sync(reviewed)
    await payments.refund_at_stripe(payments.find(reviewed).provider_payment_id)
    await payments.sync(reviewed)
    assert payments.find(reviewed).state == "failed"
    assert await _today(payments) == []
