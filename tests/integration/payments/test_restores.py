"""What a reversal took comes back to where it was: free credits never become bought ones."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.errors import ConflictError, InvalidInputError
from core.payments.errors import ReturnReason
from core.payments.types import Order
from tests.harness.ledger import Ledger
from tests.harness.payments import DirectBuyer, PaymentsHarness

Undo = Callable[[], Awaitable[None]]


async def _disputed(payments: PaymentsHarness, order: Order) -> Undo:
    dispute = await payments.dispute(order)
    await payments.deliver()

    async def win() -> None:
        await payments.close_dispute(dispute, "won")
        await payments.deliver()

    return win


async def _refunded_in_the_dashboard(payments: PaymentsHarness, order: Order) -> Undo:
    refund = await payments.refund_at_stripe(order.provider_payment_id)
    await payments.deliver()

    async def fail() -> None:
        await payments.control(f"refunds/{refund}", {"status": "failed"})
        await payments.deliver()

    return fail


REVERSALS = pytest.mark.parametrize("reverse", [_disputed, _refunded_in_the_dashboard])
Reverse = Callable[[PaymentsHarness, Order], Awaitable[Undo]]


@pytest.fixture
def ledger(payments: PaymentsHarness) -> Ledger:
    return Ledger(payments.database)


def _lots(payments: PaymentsHarness, user_id: uuid.UUID) -> list[tuple[str, int, Any]]:
    """(source, remaining, days to live) in the order in which they came in."""
    rows = payments.database.rows(
        "select source, remaining,"
        " round(extract(epoch from expires_at - app.now()) / 86400)::integer as days"
        " from app.credit_lots where user_id = %s order by created_at, id",
        (user_id,),
    )
    return [(row["source"], row["remaining"], row["days"]) for row in rows]


@REVERSALS
async def test_free_credits_do_not_turn_into_money(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger, reverse: Reverse
) -> None:
    order = await ada.buy()
    ada.spend(50)
    ledger.grant(ada.id, 50, source="promo", lives="30 days")
    undo = await reverse(payments, order)
    assert ada.balance() == (0, 0, 0)
    await undo()
    assert ada.balance() == (50, 0, 0)
    assert _lots(payments, ada.id) == [("purchase", 0, None), ("promo", 50, 30)]
    with pytest.raises(ConflictError) as refused:
        await ada.give_back(order)
    assert refused.value.reason is ReturnReason.ALL_SPENT


@REVERSALS
async def test_each_part_returns_to_its_lot(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger, reverse: Reverse
) -> None:
    order = await ada.buy()
    ada.spend(40)
    ledger.grant(ada.id, 7, source="gift")
    ledger.grant(ada.id, 9, source="promo", lives="3 days")
    await ada.buy("credits_10")
    before = _lots(payments, ada.id)
    undo = await reverse(payments, order)
    assert ada.balance() == (0, 0, 14)
    await undo()
    assert _lots(payments, ada.id) == before
    assert ada.balance() == (36, 0, 0)
    assert (await ada.give_back(order)).amount == 398, "the ten that are left of fifty"
    payments.database.rows("delete from app.outbox")


@REVERSALS
async def test_what_has_expired_meanwhile_lives_on_seven_days(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger, reverse: Reverse
) -> None:
    order = await ada.buy()
    ada.spend(50)
    ledger.grant(ada.id, 5, source="promo", lives="1 day")
    undo = await reverse(payments, order)
    payments.database.clock.advance(days=2)
    await undo()
    assert _lots(payments, ada.id)[-1] == ("promo", 5, 7)


@REVERSALS
async def test_what_paid_the_debt_returns_to_its_lot(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger, reverse: Reverse
) -> None:
    order = await ada.buy()
    held = ledger.reserve(ada.id, 8)
    ada.spend(42)
    undo = await reverse(payments, order)
    ledger.grant(ada.id, 30, source="promo", lives="30 days")
    ledger.refund(ada.id, held)
    assert ada.balance() == (0, 0, 12)
    await undo()
    assert _lots(payments, ada.id) == [("purchase", 8, None), ("promo", 30, 30)]
    assert ada.balance() == (38, 0, 0)
    assert (await ada.give_back(order)).amount == 319, "eight of fifty"
    payments.database.rows("delete from app.outbox")


@REVERSALS
async def test_what_comes_back_pays_the_debt_that_is_left(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger, reverse: Reverse
) -> None:
    order = await ada.buy()
    ada.spend(10)
    undo = await reverse(payments, order)
    ledger.adjust(ada.id, -5, "down")
    assert ada.balance() == (0, 0, 15)
    await undo()
    assert ada.balance() == (35, 0, 0)
    ledger.adjust(ada.id, 5, "up")
    assert _lots(payments, ada.id) == [("purchase", 35, None), ("adjustment", 5, None)]


async def test_a_part_that_comes_back_leaves_what_a_smaller_reversal_would_have(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger
) -> None:
    order = await ada.buy()
    ada.spend(30)
    ledger.grant(ada.id, 15, source="gift")
    await payments.refund_at_stripe(order.provider_payment_id, 995)
    rest = await payments.refund_at_stripe(order.provider_payment_id, 995)
    await payments.deliver()
    assert ada.balance() == (0, 0, 15)
    await payments.control(f"refunds/{rest}", {"status": "failed"})
    await payments.deliver()
    assert _lots(payments, ada.id) == [("purchase", 0, None), ("gift", 10, None)]
    assert ada.balance() == (10, 0, 0)


async def test_a_pack_that_cost_nothing_is_never_returned(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """Its credits went into another order's reversal, and came back as what they were."""
    paid = await ada.buy()
    free = await ada.buy("credits_100")
    payments.database.rows(
        "update app.orders set amount_total = 0, provider_payment_id = null where id = %s",
        (free.id,),
    )
    ada.spend(50)
    undo = await _disputed(payments, paid)
    await undo()
    assert ada.balance() == (100, 0, 0)
    for order, reason in ((free, ReturnReason.NOTHING_PAID), (paid, ReturnReason.ALL_SPENT)):
        with pytest.raises(ConflictError) as refused:
            await ada.give_back(order)
        assert refused.value.reason is reason


async def test_no_more_goes_back_than_was_paid(
    payments: PaymentsHarness, ada: DirectBuyer, ledger: Ledger
) -> None:
    """Credits that were set aside while others were taken in their place do not count twice."""
    order = await ada.buy()
    held = ledger.reserve(ada.id, 30)
    ledger.grant(ada.id, 30, source="gift")
    await payments.refund_at_stripe(order.provider_payment_id, 1592)
    await payments.deliver()
    ledger.refund(ada.id, held)
    assert _lots(payments, ada.id) == [("purchase", 30, None), ("gift", 10, None)]
    with pytest.raises(InvalidInputError) as refused:
        await ada.give_back(order, 11)
    assert refused.value.fields["left"] == 10
    assert (await ada.give_back(order)).amount == 398
    payments.database.rows("delete from app.outbox")
