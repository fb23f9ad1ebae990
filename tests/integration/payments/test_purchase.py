"""From an order to its credits: exactly what was paid for, once, whatever gets lost."""

import asyncio
from datetime import UTC, datetime

import pytest

from core.errors import ConflictError, NotAllowedError, NotFoundError, QuotaError
from core.errors import TemporarilyUnavailableError as Unavailable
from core.payments import catch_up, compare
from core.payments.types import DayDifference, OrderState
from tests.harness.ledger import Ledger
from tests.harness.payments import DirectBuyer, PaymentsHarness
from tests.integration.payments.conftest import OpenPayments

EVER = datetime(2000, 1, 1, tzinfo=UTC)


async def test_a_pack_arrives_by_webhook(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.order("credits_100")
    assert order.state is OrderState.OPEN
    assert ada.balance() == (0, 0, 0)
    await payments.pay(order)
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.amount_total, ada.balance()) == (
        OrderState.PAID,
        3490,
        (100, 0, 0),
    )
    assert None not in (found.invoice_url, found.invoice_pdf_url, found.receipt_url)
    assert found.session_url is None, "nothing is left to click"


async def test_every_event_three_times_in_any_order(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    events = await payments.events()
    await payments.receive(*reversed(events), *events, *events)
    assert set(await payments.run_tasks()) == {"done"}
    assert await payments.run_tasks() == []
    assert payments.lots() == [50]


async def test_nothing_is_granted_because_a_page_was_opened(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    assert await ada.request_sync(order)
    await payments.run_tasks()
    assert (payments.find(order).state, payments.lots()) == (OrderState.OPEN, [])


async def test_the_landing_page_brings_what_the_webhook_did_not(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    assert await ada.request_sync(order)
    await payments.run_tasks()
    assert ada.balance() == (50, 0, 0)
    assert not await ada.request_sync(order), "a paid order wants no sync"


async def test_a_page_that_is_read_often_shortens_no_backoff_of_its_sync(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """Else each read of it is a call of a provider in trouble, and uses up an attempt."""
    order = await ada.order()
    assert await ada.request_sync(order)
    payments.database.rows(
        "update app.outbox set failures = '{\"error\": 3}', due_at = now() + interval '1 minute'"
    )
    assert await ada.request_sync(order)
    task = payments.database.row(
        "select wanted, due_at > now() + interval '30 s' as waits from app.outbox"
    )
    assert task == {"wanted": 1, "waits": True}


async def test_a_lost_webhook_is_healed_by_the_schedule(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    assert (
        await catch_up.sync_unsettled(payments.ctx.db, payments.provider, older_than_seconds=0) == 1
    )
    assert ada.balance() == (50, 0, 0)
    assert (
        await catch_up.sync_unsettled(payments.ctx.db, payments.provider, older_than_seconds=0) == 0
    )


async def test_an_expired_order_that_was_paid_is_found_by_list(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    payments.database.rows("update app.orders set state = 'expired'")
    assert await catch_up.sync_completed(payments.ctx.db, payments.provider) == 1
    assert await catch_up.sync_completed(payments.ctx.db, payments.provider) == 0
    assert ada.balance() == (50, 0, 0)


@pytest.mark.parametrize("is_told", [True, False])
async def test_the_lost_answer_of_a_create(
    payments: PaymentsHarness, ada: DirectBuyer, *, is_told: bool
) -> None:
    """Stripe made the session, its answer was lost; the buyer got no page, but somebody pays."""
    await payments.fault("drop_after", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    (row,) = payments.database.rows("select id, state, session_id from app.orders")
    assert (row["state"], row["session_id"]) == ("created", None)
    (session,) = [each async for each in payments.provider.list_sessions(since=EVER)]
    await payments.control(f"sessions/{session.id}/pay")
    if is_told:
        await payments.deliver("checkout.session.completed")
    else:
        await payments.sync(row["id"])
    assert payments.find(row["id"]).session_id == session.id
    assert ada.balance() == (50, 0, 0)


async def test_after_a_lost_answer_the_same_order_goes_on(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await payments.fault("drop_after", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    order = await ada.order()
    sessions = [each async for each in payments.provider.list_sessions(since=EVER)]
    assert [each.id for each in sessions] == [order.session_id], "the same key, the same session"
    assert len(payments.database.rows("select id from app.orders")) == 1


async def test_a_stored_server_error_gets_a_new_key(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await payments.fault("error_before", "checkout/sessions", times=3, status=500, stored=True)
    order = await ada.order()
    assert (order.state, order.attempt) == (OrderState.OPEN, 2)


async def test_too_many_requests_are_waited_out(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await payments.fault("rate_limited", "checkout/sessions", times=1)
    assert (await ada.order()).state is OrderState.OPEN


@pytest.mark.parametrize("path", ["charges/*", "invoices/*"])
async def test_without_invoice_and_receipt_a_payment_still_counts(
    path: str, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    rule = {"kind": "error_before", "match": {"path": path}, "args": {"status": 500}}
    await payments.control("faults", rule)
    await payments.sync(order)
    assert payments.lots() == [50]


async def test_two_clicks_buy_once(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    orders = await asyncio.gather(*(ada.order() for _ in range(8)))
    assert len({order.id for order in orders}) == 1
    assert len({order.session_url for order in orders}) == 1
    assert len([each async for each in payments.provider.list_sessions(since=EVER)]) == 1
    assert (await ada.order("credits_10")).id != orders[0].id, "another pack is another order"


async def test_one_customer_a_person(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    await asyncio.gather(*(ada.order(pack) for pack in ("credits_10", "credits_50")))
    customers = (await payments.stripe.get("/v1/customers", headers=_KEY)).json()["data"]
    assert len(customers) == 1


async def test_a_customer_that_stripe_forgot_is_made_again(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    first = await ada.order("credits_10")
    await payments.stripe.delete(f"/v1/customers/{first.customer_id}", headers=_KEY)
    second = await ada.order("credits_50")
    assert second.state is OrderState.OPEN
    assert second.customer_id != first.customer_id


async def test_a_price_that_differs_is_not_sold(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """The catalogue and Stripe disagree: an operator's mistake that must not reach a buyer."""
    payments.database.rows("update app.packs set unit_amount = 1 where slug = 'credits_50'")
    with pytest.raises(Unavailable):
        await ada.order("credits_50")
    assert [each async for each in payments.provider.list_sessions(since=EVER)] == []
    payments.database.rows("update app.packs set unit_amount = 1990 where slug = 'credits_50'")
    payments.database.rows("update app.orders set unit_amount = 1990")


async def test_unknown_pack(ada: DirectBuyer) -> None:
    with pytest.raises(NotFoundError):
        await ada.order("credits_1000000")


async def test_unpaid_orders_have_an_end(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    """Cards are tried out by opening one checkout after the other."""
    for _ in range(10):
        order = await ada.order()
        await payments.control(f"sessions/{order.session_id}/expire")
        await payments.sync(order)
    with pytest.raises(QuotaError):
        await ada.order()


async def test_a_promotion_code_pays_all_of_it(open_payments: OpenPayments) -> None:
    async with open_payments(stripe_promotion_codes=True) as payments:
        ada = payments.buyer()
        await payments.make_free_code()
        order = await ada.order()
        await payments.pay(order, promotion_code="FREE")
        await payments.deliver()
        found = payments.find(order)
        assert (found.state, found.amount_total, found.provider_payment_id) == (
            OrderState.PAID,
            0,
            None,
        )
        assert ada.balance() == (50, 0, 0)


async def test_a_slow_method_is_pending_and_then_pays(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order, slow=True)
    await payments.deliver()
    assert (payments.find(order).state, payments.lots()) == (OrderState.PROCESSING, [])
    await payments.control(f"sessions/{order.session_id}/settle", {"succeeded": True})
    await payments.deliver("checkout.session.async_payment_succeeded")
    assert ada.balance() == (50, 0, 0)


async def test_a_slow_method_may_fail_and_be_tried_again(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order, slow=True)
    await payments.deliver()
    with pytest.raises(ConflictError):
        await ada.retry(order)
    await payments.control(f"sessions/{order.session_id}/settle", {"succeeded": False})
    await payments.deliver("checkout.session.async_payment_failed")
    failed = payments.find(order)
    assert (failed.state, payments.lots()) == (OrderState.FAILED, [])
    assert failed.failure_reason
    again = await ada.retry(order)
    assert (again.id, again.state, again.attempt) == (order.id, OrderState.OPEN, 2)
    assert again.session_id != order.session_id
    await payments.pay(again)
    await payments.deliver()
    assert payments.lots() == [50]
    with pytest.raises(ConflictError):
        await ada.retry(order)


async def test_an_expired_session_ends_its_order(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.control(f"sessions/{order.session_id}/expire")
    await payments.deliver("checkout.session.expired")
    assert payments.find(order).state is OrderState.EXPIRED
    assert (await ada.retry(order)).state is OrderState.OPEN


async def test_paid_in_the_last_second(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    """The event of the expiry overtakes the payment, or was never true."""
    order = await ada.order()
    payments.database.rows("update app.orders set state = 'expired'")
    await payments.pay(order)
    with pytest.raises(ConflictError):
        await ada.retry(order)
    expired = {
        **(await payments.events("checkout.session.completed"))[0],
        "id": "evt_expired",
        "type": "checkout.session.expired",
    }
    await payments.receive(expired)
    await payments.run_tasks()
    assert (payments.find(order).state, payments.lots()) == (OrderState.PAID, [50])


async def test_an_order_that_was_never_made_at_stripe_ends(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await payments.fault("drop_before", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    (row,) = payments.database.rows("select id from app.orders")
    assert (await payments.sync(row["id"])).state is OrderState.CREATED
    payments.database.clock.advance(hours=3)
    assert (await payments.sync(row["id"])).state is OrderState.EXPIRED


async def test_a_declined_card_leaves_the_session_open(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.control(f"sessions/{order.session_id}/decline")
    await payments.deliver()
    assert payments.find(order).state is OrderState.OPEN
    await payments.pay(order)
    await payments.deliver()
    assert payments.lots() == [50]


async def test_debt_is_paid_first(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    Ledger(payments.database).adjust(ada.id, -20, "debt")
    await ada.buy()
    assert ada.balance() == (30, 0, 0)


async def test_after_two_lost_disputes_nothing_is_sold(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    for pack in ("credits_10", "credits_50"):
        order = await ada.buy(pack)
        await payments.close_dispute(await payments.dispute(order), "lost")
        await payments.deliver()
        assert payments.find(order).state is OrderState.CHARGED_BACK
    with pytest.raises(NotAllowedError):
        await ada.order()


async def test_a_days_books_agree_or_say_what_differs(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    today = datetime.now(UTC).date()
    assert await compare.compare_day(payments.ctx.db, payments.provider, today) == []
    late = await ada.order("credits_10")
    await payments.pay(late)
    assert await compare.compare_day(payments.ctx.db, payments.provider, today) == [
        DayDifference(late.session_id or "", theirs=490, ours=None)
    ]
    payments.database.rows("update app.orders set amount_total = 1 where id = %s", (order.id,))
    assert len(await compare.compare_day(payments.ctx.db, payments.provider, today)) == 2
    health = payments.database.row("select app.payments_health() as found")["found"]
    assert health["days_differing"] == 1


async def test_each_schedule_does_its_work(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.order()
    await payments.pay(order)
    payments.database.clock.advance(minutes=10)
    jobs = payments.database.rows(
        "select job from app.schedules where name like 'payments.%' or name like 'stripe_events.%'"
    )
    for row in jobs:
        payments.database.rows("select app.add_task(%s, '{}')", (row["job"],))
    assert await payments.run_tasks() == ["done"] * len(jobs) == ["done"] * 6
    assert payments.lots() == [50]
    assert len(payments.database.rows("select day from app.payment_days")) == 1


async def test_events_are_kept_for_a_month(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    await ada.buy()
    await payments.deliver("checkout.session.completed")
    (old,) = payments.database.rows("select id from app.stripe_events")
    payments.database.clock.advance(days=31)
    await payments.deliver()
    before = payments.database.row("select count(*) as events from app.stripe_events")["events"]
    payments.database.rows("select app.add_task('stripe_events.prune', '{}')")
    assert await payments.run_tasks() == ["done"]
    left = payments.database.rows("select id from app.stripe_events")
    assert len(left) == before - 1
    assert old not in left


_KEY = {"Authorization": "Bearer sk_test_shop"}
