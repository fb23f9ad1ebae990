"""An image comes by webhook alone, by polling alone, and by both."""

import pytest

from tests.acceptance.shop import Shop

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODES = {
    "webhooks": {"FAL_POLLING": "false"},
    "polling": {"FAL_WEBHOOKS": "false"},
    "both": {},
}


@pytest.mark.parametrize("mode", MODES)
async def test_images_come(mode: str, shop: Shop) -> None:
    with shop.worker(**MODES[mode]):
        async with shop.shopper() as shopper:
            started = [
                await shop.start(shopper, "cutout"),
                await shop.start(shopper, "scene_hd", preset="marble"),
            ]
            done = [await shop.finish(shopper, each) for each in started]
            assert [each["state"] for each in done] == ["succeeded", "succeeded"]
            files = [await shopper.download(each) for each in done]
    assert all(len(data) > 1000 for _, data in files)
    calls = [call for each in started for call in shop.calls(each)]
    assert [call["state"] for call in calls] == ["succeeded"] * 3
    assert all(call["webhook_at"] is None for call in calls) == (mode == "polling")
    if mode == "webhooks":
        assert [call["polls"] for call in calls] == [0, 0, 0]
    paid = shop.ledger()
    assert [row["state"] for row in paid] == ["billed"] * 3
    assert {row["request_id"] for row in paid} == {call["request_id"] for call in calls}


@pytest.mark.parametrize("mode", MODES)
async def test_a_cancel_is_heard(mode: str, shop: Shop) -> None:
    """The provider says nothing of a request that it cancelled: we have to ask."""
    shop.misbehave({"kind": "never_finishes"})
    with shop.worker(**MODES[mode]):
        async with shop.shopper() as shopper:
            started = await shop.start(shopper, "cutout")
            shop.wait("running call", lambda: shop.generation(started)["state"] == "running")
            await shopper.post(f"/v1/generations/{started}/cancel", {})
            done = await shop.finish(shopper, started)
    assert (done["state"], done["money"]) == ("cancelled", "refunded")
    assert [row["state"] for row in shop.ledger()] == ["cancelled"]
