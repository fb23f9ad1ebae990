"""From a request to an image: each operation, by webhook, by polling, and on a real photo."""

import io
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image

from tests.harness.pipeline import (
    CUTOUT_ENDPOINT,
    FAL_URL,
    PHOTO,
    SCENE_ENDPOINT,
    UPSCALE_ENDPOINT,
    PhotoOwner,
    PipelineHarness,
)
from tests.integration.generations.conftest import OpenPipeline

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
    pipeline: PipelineHarness,
    ada: PhotoOwner,
) -> None:
    generation_id = await ada.start(operation)
    assert pipeline.balance(ada) == (10 - cost, cost)
    found = await pipeline.finish(generation_id)

    assert pipeline.states(generation_id) == (TWO_STEPS if len(endpoints) == 2 else ONE_STEP)
    assert pipeline.balance(ada) == (10 - cost, 0)
    result = found["result"]
    assert result["content_type"] == content_type
    assert result["facts"]["own_pixels"] is (lane == "locked")
    assert found["lane"] == lane
    bucket = pipeline.ctx.settings.storage_bucket_results
    data = await pipeline.ctx.storage.get(bucket, result["storage_key"])
    assert len(data) == result["size_bytes"]
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (result["width"], result["height"])
    assert await pipeline.ctx.storage.get(bucket, result["thumbnail_key"])

    calls = pipeline.calls(generation_id)
    assert [call["endpoint"] for call in calls] == endpoints
    assert [call["step"] for call in calls] == list(range(len(endpoints)))
    assert {call["state"] for call in calls} == {"succeeded"}
    assert {call["is_resubmission"] for call in calls} == {False}
    paid = await pipeline.paid_calls()
    assert {call["request_id"]: Decimal(str(call["billable_units"])) for call in paid} == {
        call["request_id"]: call["billable_units"] for call in calls
    }
    assert pipeline.jobs() == [], "nothing is left to do"


async def test_the_second_step_works_on_the_first_ones_image(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start("scene_hd")
    await pipeline.submit()
    await pipeline.run_tasks()
    found = pipeline.generation(generation_id)
    assert (found["step"], found["attempts"]) == (1, 0)
    assert found["input_key"].startswith(f"{ada.id}/{generation_id}/")
    last = pipeline.router.posts_to(FAL_URL, f"/{UPSCALE_ENDPOINT}")[-1]
    assert found["input_key"].split("/")[-1].encode() in last.content
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_a_failing_second_step_is_refunded_whole(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("content_policy", endpoint=UPSCALE_ENDPOINT)
    generation_id = await ada.start("scene_hd")
    assert (await pipeline.finish(generation_id))["state"] == "failed"
    assert pipeline.balance(ada) == (10, 0)
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["succeeded", "failed"]


async def test_by_polling_alone(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.submit()
        (paid,) = await pipeline.paid_calls()
        assert paid["webhook_url"] is None
        assert pipeline.jobs().count("provider_call.collect") == 0
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert pipeline.balance(ada) == (9, 0)


async def test_by_webhook_alone(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_polling=False) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.submit()
        (paid,) = await pipeline.paid_calls()
        assert paid["webhook_url"].startswith("http://127.0.0.1:8000/v1/webhooks/fal/")
        await pipeline.run_tasks()
        assert pipeline.state(generation_id) == "succeeded"


async def test_the_first_look_waits_for_the_models_usual_time(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("never_finishes")
    generation_id = await ada.start("scene")
    await pipeline.dispatch()
    call = pipeline.call(generation_id)
    assert 13 < (call["next_poll_at"] - call["accepted_at"]).total_seconds() < 16
    for polls in range(1, 5):
        assert await pipeline.poll() == 1
        call = pipeline.call(generation_id)
        assert call["polls"] == polls
        pause = (call["next_poll_at"] - pipeline.now()).total_seconds()
        assert pause == pytest.approx(min(15, 2 ** (polls - 1)), abs=1.5), "backing off"


async def test_polling_and_webhook_make_one_task(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.poll()
    await pipeline.poll()
    assert pipeline.jobs().count("provider_call.collect") == 1
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_a_photo_goes_to_a_provider_that_cannot_reach_ours(
    open_pipeline: OpenPipeline,
) -> None:
    remote = "https://queue.fal.test:443"
    async with open_pipeline(
        fal_queue_url=remote, fal_rest_url=remote, fal_output_hosts=("queue.fal.test",)
    ) as pipeline:
        pipeline.router.connect(remote, pipeline.provider)
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.dispatch()
        assert pipeline.state(generation_id) == "running"
        sent = pipeline.router.posts_to(remote, f"/{CUTOUT_ENDPOINT}")[0]
        url = sent.read().decode().split('"image_url":"')[1].split('"')[0]
        assert url.startswith("https://queue.fal.test/files/")
        assert (await pipeline.ctx.http.get(url)).content.startswith(b"\x89PNG")


async def test_the_locked_lane_keeps_the_photos_pixels(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The provider's picture is another one: only where the piece is was taken from it."""
    generation_id = await ada.start("cutout")
    result = (await pipeline.finish(generation_id))["result"]
    bucket = pipeline.ctx.settings.storage_bucket_results
    data = await pipeline.ctx.storage.get(bucket, result["storage_key"])

    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(PHOTO)) as photo:
        cut, own = np.asarray(image.convert("RGBA")), np.asarray(photo.convert("RGB"))
    kept = cut[..., 3] > 0
    assert 0.02 < kept.mean() < 0.9
    assert np.array_equal(cut[kept][:, :3], own[kept])
