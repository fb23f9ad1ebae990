"""Each check before a grant, each broken alone: money that is not ours is looked at by a person."""

from typing import Any

import pytest

from core.payments.types import OrderState
from tests.harness.payments import DirectBuyer, PaymentsHarness

_OTHER = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("other_order", {"client_reference_id": _OTHER}),
        ("other_order", {"metadata": {"order_id": _OTHER}}),
        ("other_user", {"metadata": {"user_id": _OTHER}}),
        ("mode", {"mode": "setup"}),
        ("currency", {"currency": "jpy"}),
        ("amount_subtotal", {"amount_subtotal": 1}),
    ],
)
async def test_a_session_that_was_tampered_with(
    word: str, changes: dict[str, Any], payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    if "metadata" in changes:
        session = await payments.provider.get_session(order.session_id or "")
        changes = {"metadata": {**session.metadata, **changes["metadata"]}}
    await payments.change("checkout.session", order.session_id, changes)
    await payments.sync(order)
    found = payments.find(order)
    assert (found.state, found.review_reason) == (OrderState.REVIEW, word)
    assert payments.lots() == []
    health = payments.database.row("select app.payments_health() as found")["found"]
    assert health["orders_in_review"] == 1


@pytest.mark.parametrize(
    ("word", "items"),
    [
        ("line_items", []),
        ("line_items", [1, 1]),
        ("quantity", [2]),
        ("price", [1]),
    ],
)
async def test_other_goods_than_were_ordered(
    word: str, items: list[int], payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    lines: list[dict[str, Any]] = [{"quantity": quantity} for quantity in items]
    if word == "price":
        lines = [{"quantity": 1, "price": {"id": "price_of_another_pack"}}]
    await payments.change("checkout.session", order.session_id, {"line_items": lines})
    await payments.sync(order)
    found = payments.find(order)
    assert (found.state, found.review_reason, payments.lots()) == (OrderState.REVIEW, word, [])


async def test_what_was_bought_is_not_read_from_metadata(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order("credits_10")
    await payments.pay(order)
    session = await payments.provider.get_session(order.session_id or "")
    await payments.change(
        "checkout.session",
        order.session_id,
        {"metadata": {**session.metadata, "pack": "credits_500", "credits": "500"}},
    )
    await payments.sync(order)
    assert ada.balance() == (10, 0, 0)


async def test_an_unpaid_session_grants_nothing(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order, slow=True)
    event = (await payments.events("checkout.session.completed"))[0]
    event["data"]["object"]["payment_status"] = "paid"
    await payments.receive(event)
    await payments.run_tasks()
    assert (payments.find(order).state, payments.lots()) == (OrderState.PROCESSING, [])


async def test_a_session_of_another_order_is_not_taken_for_this_one(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """The event names a session of ours under the reference of another's order."""
    cheap, dear = await ada.order("credits_10"), await payments.buyer().order("credits_500")
    await payments.pay(cheap)
    await payments.change(
        "checkout.session", cheap.session_id, {"client_reference_id": str(dear.id)}
    )
    await payments.deliver("checkout.session.completed")
    assert (payments.find(dear).state, payments.lots()) == (OrderState.OPEN, [])
    assert payments.find(cheap).review_reason == "other_order"


async def test_a_payment_in_review_can_be_set_right(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    await payments.change("checkout.session", order.session_id, {"currency": "jpy"})
    await payments.sync(order)
    await payments.change("checkout.session", order.session_id, {"currency": "eur"})
    await payments.sync(order)
    found = payments.find(order)
    assert (found.state, found.review_reason, payments.lots()) == (OrderState.PAID, None, [50])


async def test_a_payment_in_review_that_went_back_is_over(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.order()
    await payments.pay(order)
    await payments.change("checkout.session", order.session_id, {"currency": "jpy"})
    await payments.sync(order)
    await payments.refund_at_stripe(payments.find(order).provider_payment_id)
    await payments.deliver("refund.created")
    found = payments.find(order)
    assert (found.state, found.review_reason) == (OrderState.FAILED, None)
    assert payments.lots() == []


@pytest.mark.parametrize(
    "type_", ["checkout.session.completed", "refund.created", "charge.dispute.created"]
)
async def test_events_of_others_are_passed_over(type_: str, payments: PaymentsHarness) -> None:
    subject = {"id": "other_1", "client_reference_id": "not-ours", "payment_intent": "pi_other"}
    event = {"id": "evt_other", "type": type_, "created": 1, "data": {"object": subject}}
    await payments.receive(event)
    assert await payments.run_tasks() == ["done"]
    assert payments.database.row("select outcome from app.stripe_events")["outcome"].startswith(
        "ignored"
    )


async def test_types_that_mean_nothing_here_are_not_kept(payments: PaymentsHarness) -> None:
    event = {"id": "evt_x", "type": "plan.created", "created": 1, "data": {"object": {}}}
    await payments.receive(event)
    assert payments.database.rows("select id from app.stripe_events") == []
