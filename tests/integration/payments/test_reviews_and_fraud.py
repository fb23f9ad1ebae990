"""The ways out of review, second payments, disputes with their deadline, warnings, known cards."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from core.db import Connection, admin_scope
from core.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from core.ids import new_id
from core.payments import disputes, returns, reviews
from core.payments.types import Order, OrderState, Return, ReviewDecision
from tests.harness.ledger import admin_claims
from tests.harness.payments import DirectBuyer, PaymentsHarness
from tests.integration.payments.conftest import OpenPayments

REASON = "Compared with Stripe by hand."


async def decide(
    payments: PaymentsHarness, order: Order, decision: ReviewDecision, *, key: str = "k"
) -> Order:
    async def work(conn: Connection) -> Order:
        return await reviews.decide(
            conn, order.id, decision, reason=REASON, return_id=new_id(), key=key
        )

    return await payments.api_db.run(work, scope=admin_scope(admin_claims(payments.database)))


async def admin_return(payments: PaymentsHarness, order: Order, **terms: Any) -> Return:
    async def work(conn: Connection) -> Return:
        return await returns.admin_return(
            conn,
            new_id(),
            order.id,
            amount=terms.get("amount"),
            reason=REASON,
            key=terms.get("key", str(new_id())),
            payment_id=terms.get("payment_id"),
        )

    return await payments.api_db.run(work, scope=admin_scope(admin_claims(payments.database)))


async def in_review(payments: PaymentsHarness, buyer: DirectBuyer, **how: Any) -> Order:
    order = await buyer.order()
    await payments.pay(order, **how)
    await payments.change("checkout.session", order.session_id, {"currency": "jpy"})
    await payments.sync(order)
    found = payments.find(order)
    assert found.state is OrderState.REVIEW
    return found


# --- ways out of review ---------------------------------------------------------------------------


async def test_a_payment_that_is_right_after_all_is_accepted(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await in_review(payments, ada)
    await decide(payments, order, ReviewDecision.ACCEPTED)
    assert ada.balance() == (0, 0, 0), "a worker grants, once it has asked again"
    assert await payments.run_tasks() == ["done"]
    found = payments.find(order)
    assert (found.state, found.review_reason, ada.balance()) == ("paid", None, (50, 0, 0))
    assert payments.health()["orders_in_review"] == 0
    await payments.sync(order)
    with pytest.raises(ConflictError):
        await decide(payments, order, ReviewDecision.ACCEPTED)
    assert payments.lots() == [50]
    (line,) = payments.database.rows(
        "select detail from app.audit_log join app.audit_details on audit_id = id"
        " where action = 'order.review' and target = %s",
        (str(order.id),),
    )
    assert (line["detail"]["decision"], line["detail"]["reason"]) == ("accepted", REASON)


@pytest.mark.parametrize(
    ("decision", "state", "balance"),
    [
        (ReviewDecision.ACCEPTED, OrderState.PAID, (50, 0, 0)),
        (ReviewDecision.REJECTED, OrderState.FAILED, (0, 0, 0)),
    ],
)
async def test_a_free_session_has_both_ways_out(
    decision: ReviewDecision,
    state: OrderState,
    balance: tuple[int, int, int],
    open_payments: OpenPayments,
) -> None:
    async with open_payments(stripe_promotion_codes=True) as payments:
        ada = payments.buyer()
        await payments.make_free_code()
        order = await in_review(payments, ada, promotion_code="FREE")
        await decide(payments, order, decision)
        await payments.run_tasks()
        await payments.sync(order)
        assert (payments.find(order).state, ada.balance()) == (state, balance)
        assert payments.health()["orders_in_review"] == 0


async def test_a_rejected_payment_goes_back(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order = await in_review(payments, ada)
    await decide(payments, order, ReviewDecision.REJECTED)
    assert payments.returns_of(order) == [("admin", "requested", 1990)]
    await payments.run_tasks()
    assert payments.returns_of(order) == [("admin", "succeeded", 1990)]
    assert (payments.find(order).state, ada.balance()) == (OrderState.FAILED, (0, 0, 0))
    assert payments.health()["orders_in_review"] == 0


async def test_what_is_accepted_is_the_session_that_was_seen(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await in_review(payments, ada)
    await decide(payments, order, ReviewDecision.ACCEPTED)
    await payments.change("checkout.session", order.session_id, {"payment_status": "unpaid"})
    await payments.run_tasks()
    assert ada.balance() == (0, 0, 0), "the decision makes nothing paid"


async def test_only_admins_decide_and_only_about_reviews(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await in_review(payments, ada)
    call = "select app.review_order(%s, 'accepted', 'because', %s, 'k')"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await payments.api_db.run(
            lambda conn: conn.execute(call, (order.id, new_id())), scope=ada.scope
        )
    one_factor = admin_claims(payments.database, aal="aal1")
    with pytest.raises(NotAllowedError):
        await payments.api_db.run(
            lambda conn: conn.execute(call, (order.id, new_id())), scope=admin_scope(one_factor)
        )
    paid = await payments.buyer().buy()
    with pytest.raises(ConflictError):
        await decide(payments, paid, ReviewDecision.ACCEPTED)


# --- paid twice -----------------------------------------------------------------------------------


async def paid_twice(payments: PaymentsHarness, buyer: DirectBuyer) -> tuple[Order, str]:
    """An order both of whose pages were paid, and the payment that nothing was given for."""
    order = await buyer.order()
    await payments.control(f"sessions/{order.session_id}/expire")
    await payments.sync(order)
    again = await buyer.retry(order)
    await payments.pay(again)
    await payments.sync(again)
    await payments.pay(order, late=True)
    await payments.sync(order)
    found = payments.find(order)
    assert (found.state, found.review_reason) == (OrderState.PAID, "paid_twice")
    assert payments.lots()[-1] == 50
    second = await payments.provider.get_session(order.session_id or "")
    assert second.payment_id != found.provider_payment_id
    return found, second.payment_id or ""


async def test_the_second_payment_goes_back_and_the_credits_stay(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order, second = await paid_twice(payments, ada)
    made = await admin_return(payments, order)
    assert (made.amount, made.provider_payment_id) == (1990, second)
    assert ada.balance() == (50, 0, 0)
    await payments.run_tasks()
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.review_reason, found.amount_returned) == ("paid", None, 0)
    assert ada.balance() == (50, 0, 0)
    assert payments.health()["orders_in_review"] == 0
    assert [each.amount for each in await payments.provider.list_returns(second)] == [1990]
    assert await payments.provider.list_returns(found.provider_payment_id or "") == []


async def test_the_second_payment_refunded_in_the_dashboard_ends_the_alarm(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order, second = await paid_twice(payments, ada)
    await payments.refund_at_stripe(second, 1000)
    await payments.deliver()
    assert payments.find(order).review_reason == "paid_twice", "a part of it is still here"
    await payments.refund_at_stripe(second)
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.review_reason, ada.balance()) == ("paid", None, (50, 0, 0))


async def test_each_payment_can_be_named(payments: PaymentsHarness, ada: DirectBuyer) -> None:
    order, second = await paid_twice(payments, ada)
    with pytest.raises(NotFoundError):
        await admin_return(payments, order, payment_id="pi_of_somebody")
    with pytest.raises(InvalidInputError):
        await admin_return(payments, order, payment_id=second, amount=1991)
    await admin_return(payments, order, payment_id=order.provider_payment_id)
    await payments.run_tasks()
    assert (payments.find(order).state, ada.balance()) == (OrderState.REFUNDED, (0, 0, 0))
    await admin_return(payments, order, payment_id=second, key="second")
    with pytest.raises(ConflictError):
        await admin_return(payments, order, payment_id=second)
    again = await admin_return(payments, order, payment_id=second, key="second")
    assert again.amount == 1990
    await payments.run_tasks()
    assert payments.find(order).review_reason is None


async def test_a_dispute_of_the_second_payment_takes_no_credits(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order, second = await paid_twice(payments, ada)
    await payments.control("disputes", {"payment_intent": second})
    await payments.deliver()
    found = payments.find(order)
    assert (found.state, found.review_reason, ada.balance()) == ("paid", None, (50, 0, 0))


# --- disputes and warnings ------------------------------------------------------------------------


async def test_a_dispute_alarms_until_it_is_answered_or_acknowledged(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    dispute_id = await payments.dispute(order, reason="product_not_received")
    await payments.deliver()
    assert payments.health()["disputes_unanswered"] == 1
    scope = admin_scope(admin_claims(payments.database))
    (shown,) = await payments.api_db.run(
        lambda conn: disputes.list_disputes(conn, unanswered_only=True, before=None, limit=5),
        scope=scope,
    )
    assert (shown.dispute_id, shown.order_id, shown.amount) == (dispute_id, order.id, 1990)
    assert (shown.reason, shown.is_answer_due) == ("product_not_received", True)
    assert shown.evidence_due_at is not None
    assert shown.evidence_due_at > datetime.now(UTC) + timedelta(days=6)
    assert shown.provider_payment_id == order.provider_payment_id
    await payments.close_dispute(dispute_id, "under_review")
    await payments.deliver()
    assert payments.health()["disputes_unanswered"] == 0
    await payments.close_dispute(dispute_id, "appeal_needs_response")
    await payments.deliver()
    assert payments.health()["disputes_unanswered"] == 1
    await payments.api_db.run(
        lambda conn: disputes.acknowledge_dispute(conn, dispute_id, reason=REASON), scope=scope
    )
    assert payments.health()["disputes_unanswered"] == 0


async def test_an_early_fraud_warning_alarms_until_somebody_decides(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    warning_id = await payments.warn_of_fraud(order)
    await payments.deliver()
    assert payments.health()["fraud_warnings_open"] == 1
    scope = admin_scope(admin_claims(payments.database))
    (shown,) = await payments.api_db.run(
        lambda conn: disputes.list_fraud_warnings(conn, open_only=True, before=None, limit=5),
        scope=scope,
    )
    assert (shown.warning_id, shown.order_id, shown.amount_left) == (warning_id, order.id, 1990)
    assert shown.fraud_type == "made_with_stolen_card"
    await admin_return(payments, order)
    await payments.run_tasks()
    await payments.deliver()
    assert payments.health()["fraud_warnings_open"] == 0
    other = await payments.buyer().buy()
    kept = await payments.warn_of_fraud(other)
    await payments.deliver()
    await payments.api_db.run(
        lambda conn: disputes.acknowledge_fraud_warning(conn, kept, reason=REASON), scope=scope
    )
    assert payments.health()["fraud_warnings_open"] == 0


async def test_a_warning_that_the_key_may_not_read_counts_as_it_was_told(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.warn_of_fraud(order)
    (event,) = await payments.events("radar.early_fraud_warning.created")
    event["data"]["object"]["id"] = "issfr_not_to_be_found"
    await payments.receive(event)
    assert await payments.run_tasks() == ["done"]
    assert payments.health()["fraud_warnings_open"] == 1


# --- cards that are known again -------------------------------------------------------------------


async def _dispute_two(payments: PaymentsHarness, status: str, card: str) -> DirectBuyer:
    thief = payments.buyer()
    for pack in ("credits_10", "credits_50"):
        order = await thief.buy(pack, card=card)
        dispute = await payments.dispute(order)
        if status == "lost":
            await payments.close_dispute(dispute, status)
        await payments.sync(order)
    return thief


@pytest.mark.parametrize("status", ["lost", "open"])
async def test_a_new_account_with_the_same_card_is_no_new_start(
    status: str, payments: PaymentsHarness
) -> None:
    await _dispute_two(payments, status, "stolen")
    again = payments.buyer()
    order = await again.buy(card="stolen")
    found = payments.find(order)
    assert (found.state, found.review_reason) == (OrderState.REVIEW, "buying_stopped")
    assert again.balance() == (0, 0, 0)
    with pytest.raises(NotAllowedError):
        await again.order()
    honest = payments.buyer()
    await honest.buy(card="own")
    assert honest.balance() == (50, 0, 0)
    await decide(payments, found, ReviewDecision.ACCEPTED)
    await payments.run_tasks()
    assert again.balance() == (50, 0, 0), "an admin knows better"


async def test_a_card_that_many_share_is_not_stopped_by_two(payments: PaymentsHarness) -> None:
    """As the test cards of Stripe, or the card of a company."""
    for _ in range(7):
        await payments.buyer().buy("credits_10", card="everybody's")
    await _dispute_two(payments, "lost", "everybody's")
    ada = payments.buyer()
    await ada.buy(card="everybody's")
    assert ada.balance() == (50, 0, 0)


async def test_a_rejected_payment_is_not_granted_when_the_stop_ends(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    page = await ada.order("credits_500")
    opened = []
    for pack in ("credits_10", "credits_50"):
        order = await ada.buy(pack)
        opened.append((order, await payments.dispute(order)))
        await payments.sync(order)
    await payments.pay(page)
    with capture_logs() as lines:
        await payments.sync(page)
    assert ("payment.review", "buying_stopped") in [
        (line["event"], line.get("reason")) for line in lines
    ]
    await decide(payments, payments.find(page), ReviewDecision.REJECTED)
    for order, dispute in opened:
        await payments.close_dispute(dispute, "won")
        await payments.sync(order)
    await payments.sync(page)
    assert payments.find(page).state is OrderState.REVIEW
    payments.database.rows("update app.outbox set due_at = now()")
    await payments.run_tasks()
    assert payments.find(page).state is OrderState.FAILED
    assert ada.balance() == (60, 0, 0)


async def test_what_is_paid_on_a_page_that_was_open_is_reviewed(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    page = await ada.order("credits_500")
    for pack in ("credits_10", "credits_50"):
        order = await ada.buy(pack)
        await payments.dispute(order)
        await payments.sync(order)
    await payments.pay(page)
    await payments.run_tasks()
    assert payments.find(page).review_reason == "buying_stopped"
    assert ada.balance() == (0, 0, 0)
    await payments.refund_at_stripe(payments.find(page).provider_payment_id)
    await payments.sync(page)
    assert payments.find(page).state is OrderState.FAILED
    assert payments.health()["orders_in_review"] == 0


# --- the key --------------------------------------------------------------------------------------


async def test_a_key_that_was_revoked_is_no_readiness(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    assert payments.health()["key_refused"] is False
    payments.database.rows("select app.note_provider_key(true)")
    assert payments.health()["key_refused"] is True
    await ada.buy()
    assert payments.health()["key_refused"] is False


async def test_open_pages_of_other_accounts_with_the_card_are_closed(
    payments: PaymentsHarness,
) -> None:
    other = payments.buyer()
    await other.buy("credits_10", card="stolen")
    page = await other.order("credits_100")
    await _dispute_two(payments, "open", "stolen")
    await payments.run_tasks()
    assert payments.find(page).state is OrderState.EXPIRED


async def test_a_checkout_says_that_the_key_is_taken_again(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    payments.database.rows("select app.note_provider_key(true)")
    await ada.order()
    assert payments.health()["key_refused"] is False


# --- at once ---------------------------------------------------------------------------------


async def test_two_admins_refund_the_second_payment_once(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order, second = await paid_twice(payments, ada)
    both = await asyncio.gather(
        *(admin_return(payments, order, payment_id=second) for _ in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Return) for each in both) == 1
    await payments.run_tasks()
    assert [each.amount for each in await payments.provider.list_returns(second)] == [1990]
    assert ada.balance() == (50, 0, 0)


@pytest.mark.parametrize("looks", [0, 4])
async def test_admins_who_decide_otherwise_at_once_give_credits_or_money(
    looks: int, payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """Whoever is last decides; both are never given."""
    order = await in_review(payments, ada)
    decisions = [
        decide(payments, order, decision, key=f"k{number}")
        for number, decision in enumerate([*ReviewDecision] * 2)
    ]
    await asyncio.gather(
        *decisions, *(payments.sync(order) for _ in range(looks)), return_exceptions=True
    )
    for _ in range(3):
        payments.database.rows("update app.outbox set due_at = now()")
        await payments.run_tasks()
    returned = sum(
        each.amount
        for each in await payments.provider.list_returns(order.provider_payment_id or "")
    )
    found = payments.find(order)
    assert (returned, ada.balance()) in [(0, (50, 0, 0)), (1990, (0, 0, 0))]
    assert found.state in {OrderState.PAID, OrderState.FAILED, OrderState.REFUNDED}


async def test_a_second_payment_that_arrives_while_it_is_looked_at(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.control(f"sessions/{order.session_id}/expire")
    await payments.sync(order)
    again = await ada.retry(order)
    await asyncio.gather(
        payments.pay(again),
        payments.pay(order, late=True),
        *(payments.sync(order) for _ in range(6)),
    )
    await payments.sync(order)
    found = payments.find(order)
    assert (found.state, found.review_reason) == (OrderState.PAID, "paid_twice")
    assert (payments.lots(), ada.balance()) == ([50], (50, 0, 0))


async def test_what_paid_another_order_is_not_returned_from_this_one(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """A return without a payment would wait for the provider for ever."""
    order = await ada.order()
    await payments.pay(order)
    other = await payments.buyer().buy()
    await payments.change(
        "checkout.session", order.session_id, {"payment_intent": other.provider_payment_id}
    )
    await payments.sync(order)
    assert payments.find(order).review_reason == "other_payment"
    with pytest.raises(ConflictError) as refused:
        await admin_return(payments, order)
    assert refused.value.reason == "nothing_paid"
    assert payments.returns_of(order) == []
    made = await admin_return(payments, other)
    await payments.run_tasks()
    assert payments.returns_of(other) == [("admin", "succeeded", made.amount)]
