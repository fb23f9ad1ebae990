"""What may have been accepted, and what comes after its refund."""

from collections.abc import Iterator

import pytest

from scripts.api_client import ApiProblemError
from tests.harness.product import ProductHarness

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_dropped_answer_is_told_by_the_webhook(product: ProductHarness) -> None:
    """Accepted, then the connection drops: the webhook names the call, nothing is sent twice."""
    product.misbehave({"kind": "accept_then_drop", "times": 1})
    with product.worker():
        async with product.client() as client:
            done = await product.make(client, "cutout")
    assert done["state"] == "succeeded"
    (call,) = product.calls(done["id"])
    assert (call["state"], call["is_resubmission"]) == ("succeeded", False)
    assert [row["request_id"] for row in product.ledger()] == [call["request_id"]]
    assert product.generation(done["id"])["resubmissions"] == 0


async def test_without_a_webhook_it_is_sent_again_and_counted(product: ProductHarness) -> None:
    product.misbehave({"kind": "accept_then_drop", "times": 1})
    with product.worker(PROVIDER_WEBHOOKS="false"):
        async with product.client() as client:
            done = await product.make(client, "cutout")
            explained = await client.get(f"/v1/credits/explain/{done['id']}")
    assert (done["state"], done["money"]) == ("succeeded", "charged")
    first, second = product.calls(done["id"])
    assert (first["state"], first["request_id"]) == ("abandoned", None)
    assert (second["state"], second["is_resubmission"]) == ("succeeded", True)
    # Paid twice at the provider and charged once: the second row is what the count is for.
    assert [row["state"] for row in product.ledger()] == ["billed", "billed"]
    assert product.generation(done["id"])["resubmissions"] == 1
    assert explained["resubmissions"] == 1


@pytest.fixture
def short_deadline(product: ProductHarness) -> Iterator[None]:
    terms = "deadline_seconds = %s, uncertain_seconds = %s"
    product.rows(f"update app.operations set {terms} where slug = 'cutout'", 8, 3)
    yield
    product.rows(f"update app.operations set {terms} where slug = 'cutout'", 900, 120)


@pytest.mark.usefixtures("short_deadline")
async def test_a_late_image_is_offered_and_charged_once(product: ProductHarness) -> None:
    """Out of time: refunded. The image comes all the same: kept, and sold once."""
    product.misbehave(
        {"kind": "delay_run", "times": 1, "args": {"seconds": 12}},
        {"kind": "cancel_race", "times": 1},
    )
    with product.worker() as worker:
        product.wait_started(worker)  # its time runs from the order on
        async with product.client() as client:
            before = (await client.get("/v1/me"))["balance"]
            done = await product.make(client, "cutout")
            assert (done["state"], done["money"]) == ("failed", "refunded")
            assert done["problem"]["code"] == "deadline_exceeded"
            assert (await client.get("/v1/me"))["balance"] == before
            path = f"/v1/generations/{done['id']}"
            product.wait(
                "late image", lambda: product.rows("select 1 from app.late_images"), seconds=30
            )
            late = (await client.get(path))["late_image"]
            assert late["bought_as"] is None
            bought = await client.post(f"{path}/late-image", {})
            with pytest.raises(ApiProblemError):
                await client.post(f"{path}/late-image", {})
            after = (await client.get("/v1/me"))["balance"]
            _, data = await client.download(bought)
    assert (bought["state"], bought["money"]) == ("succeeded", "charged")
    assert after["available"] == before["available"] - done["cost_credits"]
    assert len(data) == bought["image"]["size_bytes"]
    assert product.generation(done["id"])["money"] == "refunded"
    assert [row["state"] for row in product.ledger()] == ["billed"]
