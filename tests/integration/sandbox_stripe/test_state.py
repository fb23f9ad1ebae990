"""Control, the ledger, and what lives on over a restart."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox_stripe.conftest import MakeStripe
from tests.integration.sandbox_stripe.support import SECRET, Stripe


async def test_ledger(pay: Stripe) -> None:
    first = await pay.paid(client_reference_id="o-1")
    await pay.paid()
    await pay.session()
    intent = first.payment_intent
    await pay.v1.refunds.create_async({"payment_intent": intent, "amount": 250})
    await pay.control("disputes", {"payment_intent": intent, "amount": 100})
    reply = await pay.control("ledger", method="GET")
    assert reply["totals"] == {
        "usd": {"payments": 2, "paid": 2000, "refunded": 250, "disputed": 100}
    }
    (row,) = [row for row in reply["payments"] if row["client_reference_id"] == "o-1"]
    assert (row["payment_status"], row["refunded"], row["disputed"]) == ("paid", 250, 100)
    assert len(reply["payments"]) == 3


async def test_tampering(pay: Stripe) -> None:
    session = await pay.paid(metadata={"order_id": "o-1"})
    other = await pay.price(5)
    await pay.control(
        f"objects/checkout.session/{session.id}",
        {
            "metadata": {"order_id": "o-2"},
            "currency": "eur",
            "line_items": [{"quantity": 3, "price": {"id": other.id}}],
        },
        method="PATCH",
    )
    seen = await pay.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["line_items"]})
    assert (seen.metadata.order_id, seen.currency) == ("o-2", "eur")
    assert (seen.line_items.data[0].quantity, seen.line_items.data[0].price.id) == (3, other.id)
    shown = await pay.control(f"objects/checkout.session/{session.id}", method="GET")
    assert shown["currency"] == "eur"


async def test_reset(pay: Stripe) -> None:
    await pay.paid()
    await pay.fault("rate_limited")
    await pay.control("reset")
    health = await pay.control("health", method="GET")
    assert (health["sessions"], health["events"]) == (0, 0)
    pay.inbox.hooks.clear()
    await pay.v1.customers.create_async({})
    (hook,) = await pay.settled()
    assert hook.verifies(SECRET)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("faults", {"kind": "explode"}, 422),
        ("config", {"speed": 3}, 405),
        ("clock", {"advance_seconds": -1}, 400),
        ("clock", {}, 422),
        ("sessions/cs_none/pay", None, 404),
        ("refunds/re_none", {"status": "exploded"}, 400),
        ("disputes", {}, 404),
        ("disputes/du_none", {"status": "exploded"}, 400),
    ],
)
async def test_misunderstandings(pay: Stripe, path: str, body: Any, status: int) -> None:
    answer = await pay.http.post(f"/__control/{path}", json=body)
    assert answer.status_code == status, answer.text


async def test_restart(make_stripe: MakeStripe, tmp_path: Path) -> None:
    before = await make_stripe(state_dir=tmp_path)
    options: Any = {"idempotency_key": "k"}
    buyer = await before.v1.customers.create_async({"name": "Ada"}, options)
    session = await before.paid(customer=buyer.id)
    waiting = await before.session(expires_at=before.box.now() + 1800)
    gone = await before.v1.webhook_endpoints.create_async(
        {"url": "http://api.test/2", "enabled_events": ["*"]}
    )
    await before.v1.webhook_endpoints.delete_async(gone.id)
    await before.settled()
    await before.tune(webhooks_held=True)
    refund = await before.v1.refunds.create_async(
        {"payment_intent": session.payment_intent, "amount": 1}
    )
    listed = [event.id for event in (await before.v1.events.list_async({"limit": 100})).data]
    await before.aclose()

    after = await make_stripe(state_dir=tmp_path)
    found = await after.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["line_items"]})
    assert found.payment_status == "paid"
    assert found.line_items.data[0].quantity == 1
    assert (await after.v1.customers.create_async({"name": "Ada"}, options)).id == buyer.id
    again = [event.id for event in (await after.v1.events.list_async({"limit": 100})).data]
    assert again == listed
    refunds = await after.v1.refunds.list_async({"payment_intent": session.payment_intent})
    assert [item.id for item in refunds.data] == [refund.id]
    assert len((await after.v1.webhook_endpoints.list_async()).data) == 1
    after.box.webhooks.resume()
    assert "refund.created" in [hook.type for hook in await after.settled()]
    await after.control("clock", {"advance_seconds": 1801})
    await after.settled()
    assert after.inbox.last("checkout.session.expired").object["id"] == waiting.id


async def test_cost_does_not_grow_with_what_is_there(
    make_stripe: MakeStripe, tmp_path: Path
) -> None:
    pay = await make_stripe(state_dir=tmp_path, endpoints=())

    async def spent(count: int) -> float:
        started = time.process_time()
        for _ in range(count):
            await pay.v1.customers.create_async({"name": "Ada"})
        return time.process_time() - started

    await spent(20)
    first = await spent(100)
    for number in range(20_000):
        pay.box.store.save(
            {"id": f"cus_{number}", "object": "customer", "created": 0, "email": None}
        )
    pay.box.store.flush()
    assert await spent(100) < 3 * first
