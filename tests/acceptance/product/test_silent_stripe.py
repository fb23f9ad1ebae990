"""A Stripe that takes connections and says nothing: nobody else waits for it."""

import asyncio
import time
import uuid

import httpx
import psycopg
import pytest

from scripts.api_client import ApiClient, ApiProblemError, Document
from scripts.chaos.people import photo
from scripts.people import insert_user, make_claims, sign
from tests.harness.product import JWT_SECRET, ProductHarness

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUYERS = 20
SILENT_SECONDS = 65.0
# Far more than a photo needs here, and far less than one look of a silent Stripe used to take.
OTHERS_SECONDS = 30.0
CLICK_SECONDS = 15.0


def _buyer(product: ProductHarness) -> ApiClient:
    claims = make_claims(product.processes, uuid.uuid4())
    with psycopg.connect(product.processes.stack.postgres.url()) as conn:
        insert_user(conn, claims)
    return ApiClient(product.processes.api_url, sign(claims, JWT_SECRET))


async def test_photos_and_clicks_do_not_wait_for_it(product: ProductHarness) -> None:
    buyers = [_buyer(product) for _ in range(BUYERS)]
    async with (
        httpx.AsyncClient(base_url=product.processes.stripe_url, timeout=60) as stripe,
        product.client() as ada,
    ):
        orders: list[Document] = [
            await buyer.post("/v1/checkout", {"pack": "credits_10"}) for buyer in buyers
        ]
        for method, path in (("GET", "checkout/sessions/*"), ("POST", "checkout/sessions")):
            rule = {
                "kind": "silence",
                "match": {"method": method, "path": path},
                "args": {"seconds": SILENT_SECONDS},
            }
            assert (await stripe.post("/__control/faults", json=rule)).is_success
        with product.worker():
            await asyncio.gather(
                *(
                    buyer.get(f"/v1/checkout/{order['id']}")
                    for buyer, order in zip(buyers, orders, strict=True)
                )
            )
            began = time.monotonic()
            upload = await ada.upload("ring.jpg", photo(1, 7))
            assert upload["state"] == "ready"
            assert time.monotonic() - began < OTHERS_SECONDS
            began = time.monotonic()
            with pytest.raises(ApiProblemError):
                await ada.post("/v1/checkout", {"pack": "credits_500"}, key="silent")
            assert time.monotonic() - began < CLICK_SECONDS
            assert (await stripe.delete("/__control/faults")).is_success
            order = await ada.post("/v1/checkout", {"pack": "credits_500"}, key="silent")
            assert (
                await stripe.post(order["checkout_url"], data={"action": "pay"})
            ).has_redirect_location
            done = await ada.wait(f"/v1/checkout/{order['id']}", {"created", "open"})
            assert done["state"] == "paid"
    for buyer in buyers:
        await buyer.__aexit__()
