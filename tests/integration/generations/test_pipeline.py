"""From a request to an image: each operation, by webhook, by polling, and on a real photo."""

import io
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image

from tests.integration.generations.conftest import OpenWorld
from tests.integration.generations.world import (
    CUTOUT_ENDPOINT,
    FAL_URL,
    PHOTO,
    SCENE_ENDPOINT,
    UPSCALE_ENDPOINT,
    Person,
    World,
)

ONE_STEP = ["queued", "submitting", "running", "collecting", "succeeded"]
TWO_STEPS = [*ONE_STEP[:-1], *ONE_STEP[1:]]


@pytest.mark.parametrize(
    ("operation", "cost", "lane", "endpoints", "content_type"),
    [
        ("cutout", 1, "locked", [CUTOUT_ENDPOINT], "image/png"),
        ("packshot", 1, "locked", [CUTOUT_ENDPOINT], "image/jpeg"),
        ("scene", 4, "reimagined", [SCENE_ENDPOINT], "image/png"),
        ("scene_hd", 6, "reimagined", [SCENE_ENDPOINT, UPSCALE_ENDPOINT], "image/png"),
        ("upscale", 2, "reimagined", [UPSCALE_ENDPOINT], "image/png"),
    ],
)
async def test_each_operation_delivers(
    *,
    operation: str,
    cost: int,
    lane: str,
    endpoints: list[str],
    content_type: str,
    world: World,
    ada: Person,
) -> None:
    generation_id = await ada.start(operation)
    assert world.balance(ada) == (10 - cost, cost)
    found = await world.finish(generation_id)

    assert world.states(generation_id) == (TWO_STEPS if len(endpoints) == 2 else ONE_STEP)
    assert world.balance(ada) == (10 - cost, 0)
    result = found["result"]
    assert result["content_type"] == content_type
    assert result["facts"]["own_pixels"] is (lane == "locked")
    assert found["lane"] == lane
    bucket = world.ctx.settings.storage_bucket_results
    data = await world.ctx.storage.get(bucket, result["storage_key"])
    assert len(data) == result["size_bytes"]
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (result["width"], result["height"])
    assert await world.ctx.storage.get(bucket, result["thumbnail_key"])

    calls = world.calls(generation_id)
    assert [call["endpoint"] for call in calls] == endpoints
    assert [call["step"] for call in calls] == list(range(len(endpoints)))
    assert {call["state"] for call in calls} == {"succeeded"}
    assert {call["is_resubmission"] for call in calls} == {False}
    paid = await world.paid_calls()
    assert {call["request_id"]: Decimal(str(call["billable_units"])) for call in paid} == {
        call["request_id"]: call["billable_units"] for call in calls
    }
    assert world.jobs() == [], "nothing is left to do"


async def test_the_second_step_works_on_the_first_ones_image(world: World, ada: Person) -> None:
    generation_id = await ada.start("scene_hd")
    await world.submit()
    await world.run_tasks()
    found = world.generation(generation_id)
    assert (found["step"], found["attempts"]) == (1, 0)
    assert found["input_key"].startswith(f"{ada.id}/{generation_id}/")
    last = world.wires.posts_to(FAL_URL, f"/{UPSCALE_ENDPOINT}")[-1]
    assert found["input_key"].split("/")[-1].encode() in last.content
    assert (await world.finish(generation_id))["state"] == "succeeded"


async def test_a_failing_second_step_is_refunded_whole(world: World, ada: Person) -> None:
    await world.fault("content_policy", endpoint=UPSCALE_ENDPOINT)
    generation_id = await ada.start("scene_hd")
    assert (await world.finish(generation_id))["state"] == "failed"
    assert world.balance(ada) == (10, 0)
    assert [call["state"] for call in world.calls(generation_id)] == ["succeeded", "failed"]


async def test_by_polling_alone(open_world: OpenWorld) -> None:
    async with open_world(fal_webhooks=False) as world:
        ada = await world.person()
        generation_id = await ada.start()
        await world.submit()
        (paid,) = await world.paid_calls()
        assert paid["webhook_url"] is None
        assert world.jobs().count("provider_call.collect") == 0
        assert (await world.finish(generation_id))["state"] == "succeeded"
        assert world.balance(ada) == (9, 0)


async def test_by_webhook_alone(open_world: OpenWorld) -> None:
    async with open_world(fal_polling=False) as world:
        ada = await world.person()
        generation_id = await ada.start()
        await world.submit()
        (paid,) = await world.paid_calls()
        assert paid["webhook_url"].startswith("http://127.0.0.1:8000/v1/webhooks/fal/")
        await world.run_tasks()
        assert world.state(generation_id) == "succeeded"


async def test_the_first_look_waits_for_the_models_usual_time(world: World, ada: Person) -> None:
    await world.fault("never_finishes")
    generation_id = await ada.start("scene")
    await world.dispatch()
    call = world.call(generation_id)
    assert 13 < (call["next_poll_at"] - call["accepted_at"]).total_seconds() < 16
    for looks in range(1, 5):
        assert await world.poll() == 1
        call = world.call(generation_id)
        assert call["polls"] == looks
        pause = (call["next_poll_at"] - world.now()).total_seconds()
        assert pause == pytest.approx(min(15, 2 ** (looks - 1)), abs=1.5), "backing off"


async def test_polling_and_webhook_make_one_task(world: World, ada: Person) -> None:
    generation_id = await ada.start()
    await world.submit()
    await world.poll()
    await world.poll()
    assert world.jobs().count("provider_call.collect") == 1
    assert (await world.finish(generation_id))["state"] == "succeeded"


async def test_a_photo_goes_to_a_provider_that_cannot_reach_ours(open_world: OpenWorld) -> None:
    remote = "https://queue.fal.test:443"
    async with open_world(
        fal_queue_url=remote, fal_rest_url=remote, fal_output_hosts=("queue.fal.test",)
    ) as world:
        world.wires.connect(remote, world.provider)
        ada = await world.person()
        generation_id = await ada.start()
        await world.dispatch()
        assert world.state(generation_id) == "running"
        sent = world.wires.posts_to(remote, f"/{CUTOUT_ENDPOINT}")[0]
        url = sent.read().decode().split('"image_url":"')[1].split('"')[0]
        assert url.startswith("https://queue.fal.test/files/")
        assert (await world.ctx.http.get(url)).content.startswith(b"\x89PNG")


async def test_the_locked_lane_keeps_the_photos_pixels(world: World, ada: Person) -> None:
    """The provider's picture is another one: only where the piece is was taken from it."""
    generation_id = await ada.start("cutout")
    result = (await world.finish(generation_id))["result"]
    bucket = world.ctx.settings.storage_bucket_results
    data = await world.ctx.storage.get(bucket, result["storage_key"])

    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(PHOTO)) as photo:
        cut, own = np.asarray(image.convert("RGBA")), np.asarray(photo.convert("RGB"))
    kept = cut[..., 3] > 0
    assert 0.02 < kept.mean() < 0.9
    assert np.array_equal(cut[kept][:, :3], own[kept])
