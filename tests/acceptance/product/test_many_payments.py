"""Five packs, every webhook three times, eight landing calls at once, and killed workers."""

import asyncio
import random

import httpx
import pytest

from scripts.api_client import ApiClient, Document
from scripts.chaos.people import make_people
from tests.harness.product import JWT_SECRET, ProductHarness

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKS = ("credits_10", "credits_50", "credits_100", "credits_500")
LANDING_CALLS = 8
KILLS, KILL_SECONDS = 4, 1.5


async def test_exactly_what_was_paid_for_arrives(product: ProductHarness) -> None:
    with product.worker():
        (bob,) = await make_people(product.processes, 1, jwt_secret=JWT_SECRET)
    async with (
        httpx.AsyncClient(base_url=product.processes.stripe_url, timeout=60) as stripe,
        product.client() as ada,
        ApiClient(product.processes.api_url, bob.token) as other,
    ):
        await stripe.patch("/__control/config", json={"webhooks_held": True})
        bought = [(ada, await _paid(ada, stripe, pack)) for pack in PACKS]
        bought.append((other, await _paid(other, stripe, PACKS[0])))
        calls = [_land(buyer, order) for buyer, order in bought for _ in range(LANDING_CALLS)]
        random.Random(7).shuffle(calls)
        orders, _, _ = await asyncio.gather(
            asyncio.gather(*calls), _release_webhooks(stripe), _kill_workers(product)
        )
        assert {each["state"] for each in orders} <= {"open", "paid"}
        with product.worker():
            for buyer, order in bought:
                done = await buyer.wait(f"/v1/checkout/{order['id']}", {"open"})
                assert done["state"] == "paid"
            await product.settle()
    lots = product.rows(
        "select user_id, granted from app.credit_lots"
        " where source = 'purchase' and idempotency_key = any (%s)",
        [f"order:{order['id']}" for _, order in bought],
    )
    assert sorted((row["user_id"], row["granted"]) for row in lots) == sorted(
        [(product.person.user_id, credits_) for credits_ in (10, 50, 100, 500)]
        + [(bob.user_id, 10)]
    )
    waiting = "select id from app.stripe_events where handled_at is null"
    assert product.rows(waiting) == []


async def _paid(client: ApiClient, stripe: httpx.AsyncClient, pack: str) -> Document:
    order = await client.post("/v1/checkout", {"pack": pack})
    paid = await stripe.post(order["checkout_url"], data={"action": "pay"})
    assert paid.has_redirect_location, paid.text
    return order


async def _land(client: ApiClient, order: Document) -> Document:
    return await client.get(f"/v1/checkout/{order['id']}")


async def _release_webhooks(stripe: httpx.AsyncClient) -> None:
    """All that was held back, in a random order, each three times, four at once."""
    wish = {"order": "shuffled", "copies": 3, "parallel": 4, "seed": 7}
    reply = await stripe.post("/__control/webhooks/release", json=wish)
    assert reply.is_success, reply.text
    await stripe.patch("/__control/config", json={"webhooks_held": False})


async def _kill_workers(product: ProductHarness) -> None:
    for _ in range(KILLS):
        worker = product.start_worker()
        await asyncio.sleep(KILL_SECONDS)
        worker.kill()
