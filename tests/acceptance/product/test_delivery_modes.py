"""An image comes by webhook alone, by polling alone, and by both."""

import pytest

from tests.harness.product import ProductHarness

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODES = {
    "webhooks": {"PROVIDER_POLLING": "false"},
    "polling": {"PROVIDER_WEBHOOKS": "false"},
    "both": {},
}


@pytest.mark.parametrize("mode", MODES)
async def test_images_come(mode: str, product: ProductHarness) -> None:
    with product.worker(**MODES[mode]):
        async with product.client() as client:
            started = [
                await product.start(client, "cutout"),
                await product.start(client, "scene_hd", preset="marble"),
            ]
            done = [await product.finish(client, each) for each in started]
            assert [each["state"] for each in done] == ["succeeded", "succeeded"]
            files = [await client.download(each) for each in done]
    assert all(len(data) > 1000 for _, data in files)
    calls = [call for each in started for call in product.calls(each)]
    assert [call["state"] for call in calls] == ["succeeded"] * 3
    assert all(call["webhook_at"] is None for call in calls) == (mode == "polling")
    if mode == "webhooks":
        assert [call["polls"] for call in calls] == [0, 0, 0]
    paid = product.ledger()
    assert [row["state"] for row in paid] == ["billed"] * 3
    assert {row["request_id"] for row in paid} == {call["request_id"] for call in calls}


@pytest.mark.parametrize("mode", MODES)
async def test_a_cancel_is_heard(mode: str, product: ProductHarness) -> None:
    """The provider says nothing of a request that it cancelled: we have to ask."""
    product.misbehave({"kind": "never_finishes"})
    with product.worker(**MODES[mode]):
        async with product.client() as client:
            started = await product.start(client, "cutout")
            product.wait("running call", lambda: product.generation(started)["state"] == "running")
            await client.post(f"/v1/generations/{started}/cancel", {})
            done = await product.finish(client, started)
    assert (done["state"], done["money"]) == ("cancelled", "refunded")
    assert [row["state"] for row in product.ledger()] == ["cancelled"]
