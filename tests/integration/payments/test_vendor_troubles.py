"""Stripe is silent, slow, stores its failures, or has other prices than a moment ago."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from core.errors import ConflictError, NotAllowedError, QuotaError
from core.errors import TemporarilyUnavailableError as Unavailable
from core.ids import new_id
from core.payments import catch_up, queries, service
from core.payments.customers import create_portal_url
from core.payments.deadline import CLICK_SECONDS, LOOK_SECONDS, Deadline
from core.payments.provider import ProviderUnavailableError
from core.payments.stripe.wire import CLICK, LOOK, call
from core.payments.types import Order, OrderState
from scripts.stripe_setup import set_up
from tests.harness.payments import DirectBuyer, PaymentsHarness

SILENT_SECONDS = 60.0


def test_what_a_click_and_a_look_may_wait_in_all() -> None:
    """Browsers and proxies give up at 15 s and later; a look holds a place that others need."""
    assert max(CLICK_SECONDS, CLICK.total_seconds) <= 12
    assert max(LOOK_SECONDS, LOOK.total_seconds) <= 10
    assert LOOK.tries == 1, "the task is what tries again"


async def test_a_silent_stripe_answers_the_click_in_time_and_the_order_goes_on(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """A gateway swallows the creates: no key is taken, nothing ever comes."""
    await payments.fault("silence", "checkout/sessions", times=None, seconds=SILENT_SECONDS)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await ada.order()
    assert time.monotonic() - began < SILENT_SECONDS / 2
    (row,) = payments.database.rows("select id, state from app.orders")
    assert row["state"] == "created"
    await payments.control("faults", method="DELETE")
    assert (await ada.order()).id == row["id"]


async def test_one_deadline_for_all_calls_of_a_click(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """Each call is in its own time, and all of them together are not."""
    for path, method in (("prices", "GET"), ("customers", "POST"), ("checkout/sessions", "POST")):
        await payments.fault("delay_before", path, times=None, method=method, seconds=0.4)
    context = payments.context
    hasty = msgspec.structs.replace(context, deadline=Deadline(0.7))
    await hasty.deadline.hold(hasty.provider.find_price("credits_50"))
    with pytest.raises(ProviderUnavailableError):
        await hasty.deadline.hold(hasty.provider.create_customer(ada.id, None, key="k"))


async def test_a_look_asks_once_and_leaves_the_rest_to_the_task(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    await payments.fault("drop_before", "checkout/sessions/*", times=None, method="GET")
    assert await ada.request_sync(order)
    assert await payments.run_tasks() == ["retry"]
    assert await payments.fired() == [1]
    await payments.control("faults", method="DELETE")
    payments.database.rows("update app.outbox set due_at = now()")
    assert await payments.run_tasks() == ["done"]
    assert ada.balance() == (50, 0, 0)


async def test_a_look_at_a_silent_stripe_ends(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.order()
    await payments.fault(
        "silence", "checkout/sessions/*", times=None, method="GET", seconds=SILENT_SECONDS
    )
    assert await ada.request_sync(order)
    began = time.monotonic()
    assert await payments.run_tasks() == ["retry"]
    assert time.monotonic() - began < SILENT_SECONDS / 2


async def test_looks_that_a_page_asks_for_back_off(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """64 in eight seconds; who comes back after a while is served at once."""
    order = await ada.order()
    looks = 0
    for _ in range(64):
        if await ada.request_sync(order):
            looks += 1
            await payments.run_tasks()
        payments.database.clock.advance(seconds=0.125)
    assert looks <= 4
    await payments.pay(order)
    payments.database.clock.advance(seconds=31)
    assert await ada.request_sync(order)
    await payments.run_tasks()
    assert ada.balance() == (50, 0, 0)


async def test_two_clicks_meet_while_the_page_is_made(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """The first create takes seconds; the second click's meets its key in use."""
    await payments.fault("delay_before", "checkout/sessions", times=1, seconds=3)
    first, second = await asyncio.gather(ada.order(), ada.order())
    assert first.state is second.state is OrderState.OPEN
    assert first.session_url == second.session_url
    ever = datetime(2000, 1, 1, tzinfo=UTC)
    assert len([each async for each in payments.provider.list_sessions(since=ever)]) == 1


@pytest.mark.parametrize("path", ["customers", "checkout/sessions"])
async def test_a_stored_failure_of_any_create_is_left_behind(
    path: str, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await payments.fault("error_before", path, times=1, status=500, stored=True)
    assert (await ada.order()).state is OrderState.OPEN


async def test_a_stored_failure_of_the_portal_is_left_behind(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.fault("error_before", "billing_portal/sessions", status=500, stored=True)
    url = await create_portal_url(
        payments.context, ada.buyer, order.customer_id or "", visit_id=new_id()
    )
    assert url.startswith("http://stripe.test/")


async def test_a_price_replaced_at_the_same_amount_goes_on_being_sold(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    sold = await ada.buy()
    old, new = await payments.replace_price("credits_50")
    assert sold.price_id == old
    order = await payments.buyer().order()
    assert (order.state, order.price_id) == (OrderState.OPEN, new)
    await payments.pay(order)
    await payments.sync(order)
    assert payments.find(order).state is OrderState.PAID


async def test_a_price_of_another_time_is_right_for_the_session_that_was_made_at_it(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """The first page is paid at its last second, after the second was made at a newer price."""
    order = await ada.order()
    await payments.control(f"sessions/{order.session_id}/expire")
    await payments.sync(order)
    await payments.replace_price("credits_50")
    again = await ada.retry(order)
    assert again.price_id != order.price_id
    await payments.pay(order, late=True)
    await payments.sync(order)
    assert (payments.find(order).state, ada.balance()) == (OrderState.PAID, (50, 0, 0))


def _sell_at(payments: PaymentsHarness, amount: int) -> None:
    payments.database.rows("update app.packs set is_active = false where slug = 'credits_50'")
    payments.database.rows(
        "insert into app.packs (slug, version, title, credits, unit_amount, currency, lookup_key)"
        " values ('credits_50', 2, '50 credits', 50, %s, 'eur', 'credits_50')",
        (amount,),
    )


async def _expired(payments: PaymentsHarness, ada: DirectBuyer) -> Order:
    order = await ada.order()
    await payments.control(f"sessions/{order.session_id}/expire")
    await payments.sync(order)
    return payments.find(order)


async def test_another_try_of_a_pack_that_costs_more_now_is_refused_with_the_reason(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await _expired(payments, ada)
    _sell_at(payments, 2190)
    packs = await payments.api_db.run(service.list_packs)
    await set_up(payments.ctx.settings, payments.provider, packs, endpoint=False)
    for _ in range(2):
        with pytest.raises(ConflictError) as caught:
            await ada.retry(order)
        assert caught.value.reason == "price_changed"
        assert payments.find(order).state is OrderState.EXPIRED
    newer = await ada.order()
    assert (newer.state, newer.unit_amount) == (OrderState.OPEN, 2190)


async def test_another_try_is_sold_at_its_own_price_while_stripe_has_it(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await _expired(payments, ada)
    _sell_at(payments, 2190)
    await payments.replace_price("credits_50", archive=False, unit_amount=2190)
    again = await ada.retry(order)
    assert (again.state, again.price_id, again.unit_amount) == ("open", order.price_id, 1990)


@pytest.mark.parametrize("whose", ["stripe", "both"])
async def test_the_same_request_goes_on_after_half_an_hour(
    whose: str, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """The hour of the page began at the first click; Stripe wants half of it to be left."""
    await payments.fault("drop_before", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    (row,) = payments.database.rows("select id from app.orders")
    await payments.control("clock", {"advance_seconds": 2400})
    if whose == "both":
        payments.database.clock.advance(seconds=2400)
    order = await ada.go_on(row["id"])
    assert (order.id, order.state) == (row["id"], OrderState.OPEN)


async def test_an_hour_later_the_same_request_goes_on_too(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await payments.fault("drop_after", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order()
    (row,) = payments.database.rows("select id from app.orders")
    await payments.control("clock", {"advance_seconds": 3700})
    payments.database.clock.advance(seconds=3700)
    order = await ada.go_on(row["id"])
    assert order.state is OrderState.OPEN
    await payments.pay(order)
    await payments.sync(order)
    assert ada.balance() == (50, 0, 0)


# --- one order that cannot be synced --------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["another order's payment", "a refund without an amount"])
async def test_one_order_that_cannot_be_synced_is_passed_over(
    trouble: str, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """Behind it somebody has paid, and no webhook came."""
    first = await ada.order()
    await payments.pay(first)
    if trouble == "another order's payment":
        other = await payments.buyer().buy()
        intent = {"payment_intent": other.provider_payment_id}
        await payments.change("checkout.session", first.session_id, intent)
    else:
        session = await payments.provider.get_session(first.session_id or "")
        refund = await payments.refund_at_stripe(session.payment_id, 1)
        await payments.change("refund", refund, {"amount": None})
    bob = payments.buyer()
    second = await bob.order()
    await payments.pay(second)
    await catch_up.sync_unsettled(payments.ctx.db, payments.provider, older_than_seconds=0)
    assert bob.balance() == (50, 0, 0)
    assert ada.balance() == (0, 0, 0)
    carl = payments.buyer()
    third = await carl.order()
    await payments.pay(third)
    await catch_up.sync_completed(payments.ctx.db, payments.provider)
    assert carl.balance() == (50, 0, 0)


async def test_an_order_that_was_tried_is_not_the_first_of_the_next_round(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """A round that reaches only some of them goes on with the others."""
    await ada.order()
    await catch_up.sync_unsettled(payments.ctx.db, payments.provider, older_than_seconds=0)
    payments.database.clock.advance(seconds=1)
    second = await payments.buyer().order()

    async def take(limit: int) -> list[Any]:
        now = payments.database.clock.now()
        return await payments.ctx.db.run(
            lambda conn: queries.take_unsettled(
                conn, older_than_seconds=-1, tried_before=now, limit=limit
            )
        )

    assert await take(1) == [second.id]


async def test_a_payment_of_another_order_is_reviewed(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    other = await payments.buyer().buy()
    await payments.change(
        "checkout.session", order.session_id, {"payment_intent": other.provider_payment_id}
    )
    await payments.sync(order)
    found = payments.find(order)
    assert (found.state, found.review_reason) == (OrderState.REVIEW, "other_payment")
    assert ada.balance() == (0, 0, 0)


# --- Null wherever the SDK says Optional ----------------------------------------------------------

_NULLS = [
    ("checkout.session", "client_reference_id", "review"),
    ("checkout.session", "customer", "paid"),
    ("checkout.session", "invoice", "paid"),
    ("checkout.session", "total_details", "paid"),
    ("checkout.session", "amount_subtotal", "review"),
    ("checkout.session", "currency", "review"),
    ("checkout.session", "metadata", "review"),
    ("checkout.session", "payment_status", "processing"),
    ("checkout.session", "url", "paid"),
    ("payment_intent", "latest_charge", "paid"),
    ("payment_intent", "last_payment_error", "paid"),
    ("charge", "receipt_url", "paid"),
    ("charge", "payment_method_details", "paid"),
    ("invoice", "hosted_invoice_url", "paid"),
    ("invoice", "invoice_pdf", "paid"),
    ("refund", "status", "partially_refunded"),
    ("refund", "reason", "partially_refunded"),
    ("refund", "metadata", "partially_refunded"),
    ("refund", "payment_intent", "partially_refunded"),
    ("dispute", "payment_intent", "disputed"),
    ("dispute", "evidence_details", "disputed"),
]


@pytest.mark.parametrize(("kind", "field", "state"), _NULLS)
async def test_a_field_that_may_be_null(
    kind: str, field: str, state: str, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    session = await call(payments.provider.v1.checkout.sessions.retrieve_async, order.session_id)
    intent = await call(
        payments.provider.v1.payment_intents.retrieve_async, session["payment_intent"]
    )
    ids = {
        "checkout.session": session["id"],
        "payment_intent": intent["id"],
        "charge": intent["latest_charge"],
        "invoice": session["invoice"],
    }
    if kind == "refund":
        ids[kind] = await payments.refund_at_stripe(intent["id"], 199)
    if kind == "dispute":
        opened = await payments.control("disputes", {"payment_intent": intent["id"]})
        ids[kind] = opened["id"]
    nobody = {"payment_intent"} if kind in {"refund", "dispute"} else set[str]()
    if field not in nobody:
        await payments.change(kind, ids[kind], {field: None})
    await payments.sync(order)
    assert payments.find(order).state == state


# --- who may not buy any more ---------------------------------------------------------------------


async def _lose(payments: PaymentsHarness, buyer: DirectBuyer, *, status: str = "lost") -> None:
    for pack in ("credits_10", "credits_50"):
        order = await buyer.buy(pack)
        dispute = await payments.dispute(order)
        if status != "needs_response":
            await payments.close_dispute(dispute, status)
        await payments.sync(order)


@pytest.mark.parametrize("status", ["lost", "needs_response"])
async def test_every_way_to_a_page_is_closed(
    status: str, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    expired = await _expired(payments, ada)
    opened = await ada.order("credits_100")
    await payments.fault("drop_before", "checkout/sessions", times=3)
    with pytest.raises(Unavailable):
        await ada.order("credits_500")
    (begun,) = payments.database.rows("select id from app.orders where pack_slug = 'credits_500'")
    await _lose(payments, ada, status=status)
    with pytest.raises(NotAllowedError):
        await ada.order("credits_10")
    with pytest.raises(NotAllowedError):
        await ada.retry(expired)
    for order_id in (opened.id, begun["id"]):
        with pytest.raises(NotAllowedError):
            await ada.go_on(order_id)
    await payments.run_tasks()
    session = await payments.provider.get_session(opened.session_id or "")
    assert session.state == "expired", "an open page can be paid"
    assert payments.find(opened).state is OrderState.EXPIRED


async def test_a_dispute_that_is_won_opens_the_shop_again(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    await _lose(payments, ada, status="won")
    assert (await ada.order()).state is OrderState.OPEN


async def test_other_tries_count_as_unpaid_orders(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    for _ in range(9):
        await payments.control(f"sessions/{order.session_id}/expire")
        await payments.sync(order)
        order = await ada.retry(order)
    await payments.control(f"sessions/{order.session_id}/expire")
    await payments.sync(order)
    with pytest.raises(QuotaError):
        await ada.retry(order)
