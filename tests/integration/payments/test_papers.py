"""Invoices that a business can use, and credit notes for what went back of them."""

from typing import Any

import pytest

from core.payments.stripe.wire import call, pages
from core.payments.types import Order
from tests.harness.payments import DirectBuyer, PaymentsHarness
from tests.integration.payments.conftest import OpenPayments


async def _notes(payments: PaymentsHarness, order: Order) -> list[dict[str, Any]]:
    listed = payments.provider.v1.credit_notes.list_async
    return [each async for each in pages(listed, {"invoice": order.invoice_id})]


async def _settle(payments: PaymentsHarness) -> None:
    for _ in range(3):
        payments.database.rows("update app.outbox set due_at = now()")
        await payments.run_tasks()


async def test_what_goes_back_stands_on_a_credit_note(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await ada.give_back(order, 10)
    await payments.refund_at_stripe(order.provider_payment_id, 500)
    await payments.deliver()
    await _settle(payments)
    await payments.deliver()
    await _settle(payments)
    notes = await _notes(payments, order)
    assert sorted(note["amount"] for note in notes) == [398, 500]
    known = payments.database.rows("select credit_note_id as id from app.payment_returns")
    assert {row["id"] for row in known} == {note["id"] for note in notes}


async def test_a_note_that_somebody_wrote_is_found(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    refund = await payments.refund_at_stripe(order.provider_payment_id, 500)
    params: Any = {
        "invoice": order.invoice_id,
        "amount": 500,
        "refunds": [{"refund": refund, "amount_refunded": 500}],
    }
    await call(payments.provider.v1.credit_notes.create_async, params)
    await payments.deliver("refund.created")
    await _settle(payments)
    assert len(await _notes(payments, order)) == 1


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("error_before", {"status": 500, "stored": True}),
        ("error_after", {"status": 500, "stored": True}),
        ("drop_after", {}),
    ],
)
async def test_a_note_is_written_once_whatever_is_lost(
    kind: str, more: dict[str, Any], payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.fault(kind, "credit_notes", times=1, **more)
    await payments.refund_at_stripe(order.provider_payment_id)
    await payments.deliver("refund.created")
    await _settle(payments)
    assert [note["amount"] for note in await _notes(payments, order)] == [1990]


async def test_a_refusal_is_recorded_and_holds_nothing_up(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    order = await ada.buy()
    await payments.fault("error_before", "credit_notes", times=None, status=403, stored=False)
    await payments.refund_at_stripe(order.provider_payment_id)
    await payments.deliver("refund.created")
    await _settle(payments)
    assert payments.find(order).state == "refunded"
    row = payments.database.row("select credit_note_refused as why from app.payment_returns")
    assert row["why"] == "permission"
    assert payments.database.rows("select id from app.outbox where job = 'return.note'") == []


async def test_without_invoices_there_are_no_notes(open_payments: OpenPayments) -> None:
    async with open_payments(stripe_invoices=False) as payments:
        order = await payments.buyer().buy()
        await payments.refund_at_stripe(order.provider_payment_id)
        await payments.deliver("refund.created")
        assert payments.database.rows("select id from app.outbox where job = 'return.note'") == []


@pytest.mark.parametrize("is_on", [True, False])
async def test_an_invoice_is_asked_its_address_and_tax_number(
    open_payments: OpenPayments, *, is_on: bool
) -> None:
    async with open_payments(stripe_invoices=is_on) as payments:
        order = await payments.buyer().order()
        session = await call(
            payments.provider.v1.checkout.sessions.retrieve_async, order.session_id
        )
        assert session["tax_id_collection"]["enabled"] is is_on
        assert session["billing_address_collection"] == ("required" if is_on else None)
