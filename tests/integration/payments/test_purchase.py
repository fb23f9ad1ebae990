"""From an order to its credits: exactly what was paid for, once, whatever gets lost."""

import asyncio
from datetime import UTC, datetime

import pytest

from core.errors import ConflictError, NotAllowedError, NotFoundError, QuotaError
from core.errors import TemporarilyUnavailableError as Unavailable
from core.payments import catch_up as reconcile
from core.payments.types import OrderState
from tests.support.shop import Customer, Shop


async def test_a_pack_arrives_by_webhook(shop: Shop, ada: Customer) -> None:
    order = await ada.order("credits_100")
    assert order.state is OrderState.OPEN
    assert ada.balance() == (0, 0, 0)
    await shop.pay(order)
    await shop.deliver()
    found = shop.find(order)
    assert (found.state, found.amount_total, ada.balance()) == (
        OrderState.PAID,
        3490,
        (100, 0, 0),
    )
    assert None not in (found.invoice_url, found.invoice_pdf_url, found.receipt_url)
    assert found.session_url is None, "nothing is left to click"


async def test_every_event_three_times_in_any_order(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order)
    told = await shop.events()
    await shop.receive(*reversed(told), *told, *told)
    assert set(await shop.run_tasks()) == {"done"}
    assert await shop.run_tasks() == []
    assert shop.lots() == [50]


async def test_nothing_is_granted_because_a_page_was_opened(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    assert await ada.look(order) is not None
    await shop.run_tasks()
    assert (shop.find(order).state, shop.lots()) == (OrderState.OPEN, [])


async def test_the_landing_page_brings_what_the_webhook_did_not(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order)
    assert await ada.look(order) is not None
    await shop.run_tasks()
    assert ada.balance() == (50, 0, 0)
    assert await ada.look(order) is None, "a paid order wants no look"


async def test_a_lost_webhook_is_healed_by_the_schedule(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order)
    assert await reconcile.sync_unsettled(shop.ctx.db, shop.gateway, older_than_seconds=0) == 1
    assert ada.balance() == (50, 0, 0)
    assert await reconcile.sync_unsettled(shop.ctx.db, shop.gateway, older_than_seconds=0) == 0


async def test_an_expired_order_that_was_paid_is_found_by_list(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order)
    shop.database.rows("update app.orders set state = 'expired'")
    assert await reconcile.sync_completed(shop.ctx.db, shop.gateway) == 1
    assert await reconcile.sync_completed(shop.ctx.db, shop.gateway) == 0
    assert ada.balance() == (50, 0, 0)


@pytest.mark.parametrize("is_told", [True, False])
async def test_the_lost_answer_of_a_create(shop: Shop, ada: Customer, *, is_told: bool) -> None:
    """Stripe made the session, we never heard of it; the buyer got no page, but somebody pays."""
    await shop.fault("drop_after", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    (row,) = shop.database.rows("select id, state, session_id from app.orders")
    assert (row["state"], row["session_id"]) == ("created", None)
    (session,) = [each async for each in shop.gateway.list_sessions({})]
    await shop.control(f"sessions/{session.id}/pay")
    if is_told:
        await shop.deliver("checkout.session.completed")
    else:
        await shop.sync(row["id"])
    assert shop.find(row["id"]).session_id == session.id
    assert ada.balance() == (50, 0, 0)


async def test_after_a_lost_answer_the_same_order_goes_on(shop: Shop, ada: Customer) -> None:
    await shop.fault("drop_after", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    order = await ada.order()
    sessions = [each async for each in shop.gateway.list_sessions({})]
    assert [each.id for each in sessions] == [order.session_id], "the same key, the same session"
    assert len(shop.database.rows("select id from app.orders")) == 1


async def test_a_stored_server_error_gets_a_new_key(shop: Shop, ada: Customer) -> None:
    await shop.fault("error_before", "checkout/sessions", times=3, status=500, stored=True)
    order = await ada.order()
    assert (order.state, order.attempt) == (OrderState.OPEN, 2)


async def test_too_many_requests_are_waited_out(shop: Shop, ada: Customer) -> None:
    await shop.fault("rate_limited", "checkout/sessions", times=1)
    assert (await ada.order()).state is OrderState.OPEN


@pytest.mark.parametrize("path", ["charges/*", "invoices/*"])
async def test_without_papers_a_payment_still_counts(path: str, shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order)
    rule = {"kind": "error_before", "match": {"path": path}, "args": {"status": 500}}
    await shop.control("faults", rule)
    await shop.sync(order)
    assert shop.lots() == [50]


async def test_two_clicks_buy_once(shop: Shop, ada: Customer) -> None:
    orders = await asyncio.gather(*(ada.order() for _ in range(8)))
    assert len({order.id for order in orders}) == 1
    assert len({order.session_url for order in orders}) == 1
    assert len([each async for each in shop.gateway.list_sessions({})]) == 1
    assert (await ada.order("credits_10")).id != orders[0].id, "another pack is another order"


async def test_one_customer_a_person(shop: Shop, ada: Customer) -> None:
    await asyncio.gather(*(ada.order(pack) for pack in ("credits_10", "credits_50")))
    customers = (await shop.stripe.get("/v1/customers", headers=_KEY)).json()["data"]
    assert len(customers) == 1


async def test_a_customer_that_stripe_forgot_is_made_again(shop: Shop, ada: Customer) -> None:
    first = await ada.order("credits_10")
    await shop.stripe.delete(f"/v1/customers/{first.customer_id}", headers=_KEY)
    second = await ada.order("credits_50")
    assert second.state is OrderState.OPEN
    assert second.customer_id != first.customer_id


async def test_a_price_that_differs_is_not_sold(shop: Shop, ada: Customer) -> None:
    """The catalogue and Stripe disagree: an operator's mistake that must not reach a buyer."""
    shop.database.rows("update app.packs set unit_amount = 1 where slug = 'credits_50'")
    with pytest.raises(Unavailable):
        await ada.order("credits_50")
    assert [each async for each in shop.gateway.list_sessions({})] == []
    shop.database.rows("update app.packs set unit_amount = 1990 where slug = 'credits_50'")
    shop.database.rows("update app.orders set unit_amount = 1990")


async def test_unknown_pack(ada: Customer) -> None:
    with pytest.raises(NotFoundError):
        await ada.order("credits_1000000")


async def test_unpaid_orders_have_an_end(shop: Shop, ada: Customer) -> None:
    """Cards are tried out by opening one checkout after the other."""
    for _ in range(10):
        order = await ada.order()
        await shop.control(f"sessions/{order.session_id}/expire")
        await shop.sync(order)
    with pytest.raises(QuotaError):
        await ada.order()


async def test_a_promotion_code_pays_all_of_it(shop: Shop, ada: Customer) -> None:
    await _free_code(shop)
    order = await ada.order()
    await shop.pay(order, promotion_code="FREE")
    await shop.deliver()
    found = shop.find(order)
    assert (found.state, found.amount_total, found.payment_intent) == (OrderState.PAID, 0, None)
    assert ada.balance() == (50, 0, 0)


async def test_a_slow_method_is_pending_and_then_pays(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order, slow=True)
    await shop.deliver()
    assert (shop.find(order).state, shop.lots()) == (OrderState.PROCESSING, [])
    await shop.control(f"sessions/{order.session_id}/settle", {"succeeded": True})
    await shop.deliver("checkout.session.async_payment_succeeded")
    assert ada.balance() == (50, 0, 0)


async def test_a_slow_method_may_fail_and_be_tried_again(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order, slow=True)
    await shop.deliver()
    with pytest.raises(ConflictError):
        await ada.retry(order)
    await shop.control(f"sessions/{order.session_id}/settle", {"succeeded": False})
    await shop.deliver("checkout.session.async_payment_failed")
    failed = shop.find(order)
    assert (failed.state, shop.lots()) == (OrderState.FAILED, [])
    assert failed.failure_reason
    again = await ada.retry(order)
    assert (again.id, again.state, again.attempt) == (order.id, OrderState.OPEN, 2)
    assert again.session_id != order.session_id
    await shop.pay(again)
    await shop.deliver()
    assert shop.lots() == [50]
    with pytest.raises(ConflictError):
        await ada.retry(order)


async def test_an_expired_session_ends_its_order(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.control(f"sessions/{order.session_id}/expire")
    await shop.deliver("checkout.session.expired")
    assert shop.find(order).state is OrderState.EXPIRED
    assert (await ada.retry(order)).state is OrderState.OPEN


async def test_paid_in_the_last_second(shop: Shop, ada: Customer) -> None:
    """The event of the expiry overtakes the payment, or was never true."""
    order = await ada.order()
    shop.database.rows("update app.orders set state = 'expired'")
    await shop.pay(order)
    with pytest.raises(ConflictError):
        await ada.retry(order)
    expired = {
        **(await shop.events("checkout.session.completed"))[0],
        "id": "evt_expired",
        "type": "checkout.session.expired",
    }
    await shop.receive(expired)
    await shop.run_tasks()
    assert (shop.find(order).state, shop.lots()) == (OrderState.PAID, [50])


async def test_an_order_that_was_never_made_at_stripe_ends(shop: Shop, ada: Customer) -> None:
    await shop.fault("drop_before", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    (row,) = shop.database.rows("select id from app.orders")
    assert (await shop.sync(row["id"])).state is OrderState.CREATED
    shop.database.rows("update app.orders set attempted_at = now() - interval '3 hours'")
    assert (await shop.sync(row["id"])).state is OrderState.EXPIRED


async def test_a_declined_card_leaves_the_session_open(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.control(f"sessions/{order.session_id}/decline")
    await shop.deliver()
    assert shop.find(order).state is OrderState.OPEN
    await shop.pay(order)
    await shop.deliver()
    assert shop.lots() == [50]


async def test_debt_is_paid_first(shop: Shop, ada: Customer) -> None:
    shop.database.rows(
        "select app.take_back(%s, 20, 'adjust', 'adjustments', 'd', null, 'test', 'debt')",
        (ada.id,),
    )
    await ada.buy()
    assert ada.balance() == (30, 0, 0)


async def test_two_sessions_of_one_order_are_both_paid(shop: Shop, ada: Customer) -> None:
    """It should not happen; if it does, one pack is given and somebody looks."""
    order = await ada.order()
    other = await ada.order("credits_10")
    await shop.pay(order)
    await shop.pay(other)
    shop.database.rows("delete from app.order_sessions where session_id = %s", (other.session_id,))
    shop.database.rows(
        "insert into app.order_sessions (session_id, order_id, attempt) values (%s, %s, 2)",
        (other.session_id, order.id),
    )
    await shop.sync(order)
    found = shop.find(order)
    assert (found.state, found.review_reason) == (OrderState.PAID, "paid_twice")
    assert shop.lots() == [50]


async def test_after_two_lost_disputes_nothing_is_sold(shop: Shop, ada: Customer) -> None:
    for pack in ("credits_10", "credits_50"):
        order = await ada.buy(pack)
        await shop.close_dispute(await shop.dispute(order), "lost")
        await shop.deliver()
        assert shop.find(order).state is OrderState.CHARGED_BACK
    with pytest.raises(NotAllowedError):
        await ada.order()


async def test_a_days_books_agree_or_say_what_differs(shop: Shop, ada: Customer) -> None:
    order = await ada.buy()
    today = datetime.now(UTC).date()
    assert await reconcile.compare_day(shop.ctx.db, shop.gateway, today) == []
    late = await ada.order("credits_10")
    await shop.pay(late)
    assert await reconcile.compare_day(shop.ctx.db, shop.gateway, today) == [
        {"session_id": late.session_id, "stripe": 490, "ours": None}
    ]
    shop.database.rows("update app.orders set amount_total = 1 where id = %s", (order.id,))
    assert len(await reconcile.compare_day(shop.ctx.db, shop.gateway, today)) == 2
    health = shop.database.row("select app.payments_health() as found")["found"]
    assert health["days_differing"] == 1


async def test_each_schedule_does_its_work(shop: Shop, ada: Customer) -> None:
    order = await ada.order()
    await shop.pay(order)
    shop.database.rows("update app.orders set attempted_at = now() - interval '10 minutes'")
    jobs = shop.database.rows("select job from app.schedules where name like 'payments.%'")
    for row in jobs:
        shop.database.rows("select app.add_task(%s, '{}')", (row["job"],))
    assert await shop.run_tasks() == ["done"] * len(jobs) == ["done"] * 5
    assert shop.lots() == [50]
    assert len(shop.database.rows("select day from app.payment_days")) == 1


async def test_events_are_kept_for_a_month(shop: Shop, ada: Customer) -> None:
    await ada.buy()
    await shop.deliver()
    old, *_ = shop.database.rows("select id from app.stripe_events order by id")
    shop.database.rows(
        "update app.stripe_events set handled_at = now() - interval '31 days' where id = %s",
        (old["id"],),
    )
    before = shop.database.row("select count(*) as events from app.stripe_events")["events"]
    shop.database.rows("select app.add_task('payments.prune_events', '{}')")
    assert await shop.run_tasks() == ["done"]
    left = shop.database.rows("select id from app.stripe_events")
    assert len(left) == before - 1
    assert old not in left


_KEY = {"Authorization": "Bearer sk_test_shop"}


async def _free_code(shop: Shop) -> None:
    coupon = await shop.stripe.post(
        "/v1/coupons", data={"percent_off": "100", "duration": "once"}, headers=_KEY
    )
    made = await shop.stripe.post(
        "/v1/promotion_codes",
        data={
            "code": "FREE",
            "promotion[type]": "coupon",
            "promotion[coupon]": coupon.json()["id"],
        },
        headers=_KEY,
    )
    assert made.status_code == 200, made.text
