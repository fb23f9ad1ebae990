"""Money that goes back takes its credits along: the target is recomputed, never added up."""

import asyncio
import uuid

import httpx
import pytest

from core.errors import ConflictError, InvalidInputError, NotFoundError, RetryableError
from core.payments import catch_up
from core.payments.errors import ReturnsPerMonthError
from core.payments.returns import create_return
from core.payments.stripe import handle
from core.payments.stripe.client import StripeClient
from core.payments.sync import sync_order
from core.payments.types import OrderState, Return, ReturnState
from sandbox.stripe.in_process import InProcessTransport
from tests.harness.payments import DirectBuyer, PaymentsHarness
from tests.integration.payments.conftest import OpenPayments


async def test_a_full_refund_takes_all_credits(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id)
    await payments.deliver()
    assert payments.find(order).state is OrderState.REFUNDED
    assert ada.balance() == (0, 0, 0)
    assert payments.returns_of(order) == [("stripe", "succeeded", 1990)]


async def test_a_part_takes_its_share_rounded_down(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id, 700)
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.credits_reversed) == (OrderState.PARTIALLY_REFUNDED, 17)
    assert ada.balance() == (33, 0, 0)


async def test_spent_credits_become_debt_that_the_next_purchase_pays(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    ada.spend(45)
    await payments.refund_at_stripe(order.provider_payment_id)
    await payments.deliver()
    assert ada.balance() == (0, 0, 45)
    await ada.buy("credits_100")
    assert ada.balance() == (55, 0, 0)


async def test_its_own_credits_go_first(payments: PaymentsHarness) -> None:
    ada = payments.buyer(credits_=7)
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id)
    await payments.deliver()
    assert payments.database.row("select remaining from app.credit_lots where source = 'gift'") == {
        "remaining": 7
    }


async def test_partial_full_and_failed_refunds_converge(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id, 500)
    rest = await payments.refund_at_stripe(order.provider_payment_id, 1490)
    await payments.deliver()
    assert ada.balance() == (0, 0, 0)
    await payments.control(f"refunds/{rest}", {"status": "failed"})
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.credits_reversed) == (OrderState.PARTIALLY_REFUNDED, 12)
    assert ada.balance() == (38, 0, 0)
    events = await payments.events()
    await payments.receive(*events, *reversed(events))
    await payments.run_tasks()
    assert ada.balance() == (38, 0, 0)


async def test_a_refund_before_the_grant_nets_to_nothing(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    paid = await payments.provider.get_session(order.session_id or "")
    await payments.refund_at_stripe(paid.payment_id)
    for kind in ("refund.created", "charge.refunded", "checkout.session.completed"):
        await payments.deliver(kind)
    assert (payments.find(order).state, ada.balance()) == (OrderState.REFUNDED, (0, 0, 0))


async def test_an_inquiry_holds_nothing(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    await payments.dispute(order, inquiry=True)
    await payments.deliver()
    assert (payments.find(order).state, ada.balance()) == (OrderState.PAID, (50, 0, 0))


@pytest.mark.parametrize(
    ("status", "state", "balance"),
    [
        ("won", OrderState.PAID, (50, 0, 0)),
        ("lost", OrderState.CHARGED_BACK, (0, 0, 0)),
        ("under_review", OrderState.DISPUTED, (0, 0, 0)),
        ("warning_closed", OrderState.PAID, (50, 0, 0)),
    ],
)
async def test_a_dispute(
    status: str,
    state: OrderState,
    balance: tuple[int, int, int],
    payments: PaymentsHarness,
    ada: DirectBuyer,
) -> None:
    order = await ada.buy()
    dispute = await payments.dispute(order)
    await payments.deliver()
    assert (payments.find(order).state, ada.balance()) == (OrderState.DISPUTED, (0, 0, 0))
    await payments.close_dispute(dispute, status)
    await payments.deliver()
    assert (payments.find(order).state, ada.balance()) == (state, balance)


async def test_a_part_that_is_disputed_holds_its_share(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.dispute(order, amount=995)
    await payments.deliver()
    assert ada.balance() == (25, 0, 0)


async def test_a_dispute_won_after_a_refund(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id, 995)
    dispute = await payments.dispute(order, amount=995)
    await payments.deliver()
    assert ada.balance() == (0, 0, 0)
    await payments.close_dispute(dispute, "won")
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.credits_reversed) == (OrderState.PARTIALLY_REFUNDED, 25)
    assert ada.balance() == (25, 0, 0)


async def test_lost_events_are_fetched(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id)
    assert await handle.fetch_missed(payments.ctx.db, payments.provider) > 0
    await payments.run_tasks()
    assert payments.find(order).state is OrderState.REFUNDED
    assert await handle.fetch_missed(payments.ctx.db, payments.provider) == 0


async def test_an_event_whose_task_died_is_handled_by_the_schedule(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.refund_at_stripe(order.provider_payment_id)
    await payments.receive(*await payments.events("charge.refunded"))
    payments.database.rows("delete from app.outbox")
    payments.database.clock.advance(hours=1)
    health = payments.database.row("select app.payments_health() as found")["found"]
    assert health["events_waiting"] == 1
    assert await handle.handle_stranded(payments.ctx.db, payments.provider) == 1
    assert payments.find(order).state is OrderState.REFUNDED


class _Stalling(httpx.AsyncBaseTransport):
    """The wire to Stripe, on which the last answer of the first sync is late."""

    def __init__(self, wire: httpx.AsyncBaseTransport) -> None:
        self._wire = wire
        self.stalled, self.go_on = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._wire.handle_async_request(request)
        if request.url.path == "/v1/disputes" and not self.stalled.is_set():
            self.stalled.set()
            await self.go_on.wait()
        return answer


async def test_an_old_state_does_not_overwrite_a_newer_one(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """A worker stalls between Stripe's answer and its write, and the refund fails in between."""
    order = await ada.buy()
    refund = await payments.refund_at_stripe(order.provider_payment_id, 995)
    wire = _Stalling(InProcessTransport(payments.sandbox))
    provider = StripeClient(payments.ctx.settings, transport=wire)
    slow = asyncio.create_task(sync_order(payments.ctx.db, provider, order.id))
    await wire.stalled.wait()
    await payments.sync(order)
    assert ada.balance() == (25, 0, 0)
    await payments.control(f"refunds/{refund}", {"status": "failed"})
    await payments.sync(order)
    assert ada.balance() == (50, 0, 0)
    wire.go_on.set()
    await slow
    await provider.close()
    assert ada.balance() == (50, 0, 0)
    assert payments.find(order).credits_reversed == 0


# --- asked for by the buyer ----------------------------------------------------------------------


async def test_the_unused_part_goes_back(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    ada.spend(20)
    await ada.give_back(order)
    assert ada.balance() == (0, 0, 0), "they cannot be spent while Stripe works"
    assert payments.returns_of(order) == [("buyer", "requested", 1194)]
    await payments.run_tasks()
    assert payments.returns_of(order) == [("buyer", "succeeded", 1194)]
    assert ada.balance() == (0, 0, 0)
    await payments.deliver()
    assert ada.balance() == (0, 0, 0)
    assert payments.find(order).credits_reversed == 30


async def test_some_of_the_credits_go_back(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    for _ in range(3):
        await ada.give_back(order, 7)
        await payments.run_tasks()
    assert payments.find(order).credits_reversed == 21
    assert ada.balance() == (29, 0, 0)
    await ada.give_back(order)
    await payments.run_tasks()
    assert payments.find(order).state is OrderState.REFUNDED
    assert sum(amount for _, _, amount in payments.returns_of(order)) == 1990


async def test_what_cannot_go_back(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.order()
    with pytest.raises(ConflictError):
        await ada.give_back(order)
    await payments.pay(order)
    await payments.sync(order)
    with pytest.raises(InvalidInputError):
        await ada.give_back(order, 51)
    with pytest.raises(InvalidInputError):
        await ada.give_back(order, 0)
    with pytest.raises(NotFoundError):
        await payments.buyer().give_back(order)
    bob = payments.buyer()
    spent = await bob.buy()
    bob.spend(50)
    with pytest.raises(ConflictError):
        await bob.give_back(spent)
    payments.database.clock.advance(days=15)
    with pytest.raises(ConflictError):
        await ada.give_back(order)


async def test_ten_at_once_give_back_once(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    done = await asyncio.gather(*(ada.give_back(order) for _ in range(10)), return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in done) == 1
    await payments.run_tasks()
    made = await payments.provider.list_returns(order.provider_payment_id or "")
    assert [refund.amount for refund in made] == [1990]


async def test_the_lost_answer_of_a_refund(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    await payments.fault("drop_after", "refunds", times=3)
    refund = await ada.give_back(order)
    assert await payments.run_tasks() == ["retry"]
    assert (await ada.give_back(order, return_id=refund.id)).id == refund.id
    payments.database.rows("update app.outbox set due_at = now()")
    assert await payments.run_tasks() == ["done"]
    assert payments.returns_of(order) == [("buyer", "succeeded", 1990)]


async def test_a_stored_server_error_does_not_stop_a_refund(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.fault("error_before", "refunds", times=3, status=500, stored=True)
    refund = await ada.give_back(order)
    with pytest.raises(RetryableError):
        await create_return(payments.ctx.db, payments.provider, refund.id)
    await create_return(payments.ctx.db, payments.provider, refund.id)
    assert payments.returns_of(order) == [("buyer", "succeeded", 1990)]


async def test_a_refund_that_was_made_behind_a_server_error_is_not_made_again(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.fault("error_after", "refunds", times=3, status=500, stored=True)
    refund = await ada.give_back(order, 10)
    with pytest.raises(RetryableError):
        await create_return(payments.ctx.db, payments.provider, refund.id)
    await create_return(payments.ctx.db, payments.provider, refund.id)
    assert payments.returns_of(order) == [("buyer", "succeeded", 398)]
    assert len(await payments.provider.list_returns(order.provider_payment_id or "")) == 1


async def test_a_refund_that_stripe_refuses_gives_the_credits_back(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await ada.give_back(order)
    assert ada.balance() == (0, 0, 0)
    dispute = await payments.dispute(order)
    await payments.close_dispute(dispute, "warning_needs_response")
    await payments.close_dispute(dispute, "needs_response")
    await payments.run_tasks()
    assert payments.returns_of(order) == [("buyer", "refused", 1990)]
    assert payments.find(order).state is OrderState.DISPUTED
    await payments.close_dispute(dispute, "won")
    await payments.deliver()
    assert ada.balance() == (50, 0, 0)


async def test_a_refund_that_fails_later_gives_the_credits_back(
    open_payments: OpenPayments,
) -> None:
    async with open_payments() as payments:
        ada = payments.buyer()
        order = await ada.buy()
        await ada.give_back(order, 10)
        await payments.run_tasks()
        assert ada.balance() == (40, 0, 0)
        (refund,) = await payments.provider.list_returns(
            payments.find(order).provider_payment_id or ""
        )
        await payments.control(f"refunds/{refund.id}", {"status": "failed"})
        await payments.deliver("refund.failed")
        assert ada.balance() == (50, 0, 0)
        assert payments.returns_of(order) == [("buyer", "failed", 398)]


async def test_a_forgotten_refund_is_made_by_the_schedule(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await ada.give_back(order)
    payments.database.rows("delete from app.outbox")
    await catch_up.sync_unsettled(payments.ctx.db, payments.provider, older_than_seconds=0)
    assert payments.returns_of(order) == [("buyer", "succeeded", 1990)]


async def test_what_cost_less_than_its_credits_never_makes_debt(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """A discount may leave a cent for many credits: the share is rounded in the buyer's favour."""
    order = await ada.buy()
    payments.database.rows("update app.orders set amount_total = 20")
    ada.spend(41)
    with pytest.raises(InvalidInputError):
        await ada.give_back(order, 1)
    await ada.give_back(order, 9)
    assert ada.balance()[2] == 0
    payments.database.rows("delete from app.outbox")


async def test_a_refund_of_nobody(payments: PaymentsHarness) -> None:
    with pytest.raises(NotFoundError):
        await create_return(payments.ctx.db, payments.provider, uuid.uuid4())


# --- twice, and again and again ------------------------------------------------------------------


async def test_two_clicks_on_some_are_one(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await ada.buy()
    first, second = await asyncio.gather(ada.give_back(order, 7), ada.give_back(order, 7))
    assert first.id == second.id
    assert ada.balance() == (43, 0, 0)
    assert (await ada.give_back(order, 7)).id == first.id, "it is not at Stripe yet"
    await payments.run_tasks()
    made = await payments.provider.list_returns(order.provider_payment_id or "")
    assert [refund.amount for refund in made] == [279]
    other = await ada.give_back(order, 7)
    assert (other.id != first.id, ada.balance()) == (True, (36, 0, 0))
    payments.database.rows("delete from app.outbox")


async def test_as_many_of_another_order_are_another_return(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    one, two = await ada.buy(), await ada.buy("credits_100")
    assert (await ada.give_back(one, 7)).id != (await ada.give_back(two, 7)).id
    assert (await ada.give_back(one, 8)).id != (await ada.give_back(one, 7)).id
    payments.database.rows("delete from app.outbox")


async def test_buying_and_returning_in_turn_ends(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    for _ in range(6):
        await ada.give_back(await ada.buy("credits_10"))
        await payments.run_tasks()
        payments.database.clock.advance(hours=1)
    order = await ada.buy("credits_10")
    with pytest.raises(ReturnsPerMonthError) as refused:
        await ada.give_back(order)
    assert refused.value.limit == 6
    assert refused.value.retry_after_seconds == pytest.approx(30 * 86_400 - 6 * 3_600, abs=120)
    assert ada.balance() == (10, 0, 0)
    bob = payments.buyer()
    await bob.give_back(await bob.buy("credits_10"))
    payments.database.clock.advance(seconds=refused.value.retry_after_seconds)
    payments.database.rows("update app.orders set paid_at = app.now() where id = %s", (order.id,))
    await ada.give_back(order)
    payments.database.rows("delete from app.outbox")


async def test_returns_that_came_to_nothing_do_not_count(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy("credits_100")
    for _ in range(7):
        asked = await ada.give_back(order, 1)
        payments.database.rows("select app.refuse_return(%s, 'test')", (asked.id,))
    assert (await ada.give_back(order, 1)).state is ReturnState.REQUESTED
    payments.database.rows("delete from app.outbox")


async def test_twenty_at_once_do_not_pass_the_bound(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy("credits_500")
    done = await asyncio.gather(
        *(ada.give_back(order, 1 + number) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(each, Return) for each in done) == 6
    assert sum(isinstance(each, ReturnsPerMonthError) for each in done) == 14
    payments.database.rows("delete from app.outbox")
