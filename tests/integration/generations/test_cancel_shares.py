"""A step that was delivered is paid by whoever cancels after it: its stated share, and no more."""

from typing import Any

import pytest

from tests.harness.pipeline import (
    SCENE_ENDPOINT,
    UPSCALE_ENDPOINT,
    PhotoOwner,
    PipelineHarness,
)


async def _after_the_first_step(pipeline: PipelineHarness, ada: PhotoOwner) -> str:
    """A large scene whose scene is made, and whose enlargement runs."""
    await pipeline.fault("never_finishes", endpoint=UPSCALE_ENDPOINT)
    generation_id = await ada.start("scene_hd")
    await pipeline.submit()
    await pipeline.run_tasks()
    found = pipeline.generation(generation_id)
    assert (found["step"], found["finished_at"]) == (1, None)
    return generation_id


async def _cancel(ada: PhotoOwner, generation_id: str) -> dict[str, Any]:
    answer = await ada.post(f"/v1/generations/{generation_id}/cancel")
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def test_the_share_is_stated_before_and_charged_after(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    shown = (await ada.get("/v1/operations/scene_hd")).json()
    assert (shown["cost_credits"], shown["cancel_credits"]) == (6, [4])
    generation_id = await _after_the_first_step(pipeline, ada)
    assert (await ada.read(generation_id))["cancel_credits"] == 4
    view = await _cancel(ada, generation_id)
    assert (view["cancel_credits"], view["money"]) == (4, "reserved")

    await pipeline.run_tasks("provider_call.cancel")
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["charged_credits"]) == ("cancelled", 4)
    assert pipeline.balance(ada) == (6, 0)
    view = await ada.read(generation_id)
    assert (view["money"], view["charged_credits"], view["cancel_credits"]) == (
        *("charged_in_part", 4),
        0,
    )
    assert view["problem"]["detail"] == (
        "Cancelled when a part of the work was done. 4 credits were charged for it; the rest is"
        " back."
    )
    paid = [call["endpoint"] for call in await pipeline.paid_calls() if call["state"] == "billed"]
    assert paid == [SCENE_ENDPOINT]


async def test_it_is_explained(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await _after_the_first_step(pipeline, ada)
    await _cancel(ada, generation_id)
    await pipeline.run_tasks("provider_call.cancel")
    await pipeline.finish(generation_id)
    told = (await ada.get(f"/v1/credits/explain/{generation_id}")).json()
    assert (told["outcome"], told["charged"], told["refunded"]) == ("charged_in_part", 4, 2)
    assert told["summary"] == (
        "Scene, large was cancelled when a part of the work was done, which cost 4 credits; 2"
        " credits came back."
    )
    share = "4 credits spent for the steps that were done before it was cancelled."
    assert share in [line["text"] for line in told["lines"]]
    entries = (await ada.get("/v1/credits/ledger")).json()["items"]
    assert share in [entry["text"] for entry in entries]
    (event,) = pipeline.database.rows(
        "select payload from app.events where type = 'generation.cancelled'"
    )
    assert event["payload"]["charged_credits"] == 4


async def test_cancelled_while_the_first_steps_image_is_fetched(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The scene was made all the same, so it is paid; the second step is never sent."""
    await pipeline.fault("cancel_race")
    generation_id = await ada.start("scene_hd")
    await pipeline.dispatch()
    assert (await _cancel(ada, generation_id))["cancel_credits"] == 0
    await pipeline.settle()
    await pipeline.run_tasks()
    await pipeline.sweep()
    found = pipeline.generation(generation_id)
    assert (found["state"], found["step"], found["charged_credits"]) == ("cancelled", 1, 4)
    assert pipeline.balance(ada) == (6, 0)
    assert [call["endpoint"] for call in await pipeline.paid_calls()] == [SCENE_ENDPOINT]


async def test_before_a_step_is_delivered_it_is_free(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("never_finishes")
    generation_id = await ada.start("scene_hd")
    await pipeline.dispatch()
    await _cancel(ada, generation_id)
    await pipeline.run_tasks("provider_call.cancel")
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["charged_credits"]) == ("cancelled", 0)
    assert pipeline.balance(ada) == (10, 0)


@pytest.mark.parametrize("times", [1, None])
async def test_a_later_step_that_fails_costs_nothing(
    pipeline: PipelineHarness, ada: PhotoOwner, times: int | None
) -> None:
    await pipeline.fault(
        "result_error", times=times, endpoint=UPSCALE_ENDPOINT, type="no_media_generated"
    )
    generation_id = await ada.start("scene_hd")
    found = await pipeline.finish(generation_id)
    assert found["charged_credits"] == (6 if found["state"] == "succeeded" else 0)
    assert sum(pipeline.balance(ada)) == 10 - found["charged_credits"]


async def test_cancelling_again_and_again_is_no_longer_free(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Three times 0.12 dollars at the provider were nothing here."""
    for left in (6, 2):
        generation_id = await _after_the_first_step(pipeline, ada)
        await _cancel(ada, generation_id)
        await pipeline.run_tasks("provider_call.cancel")
        await pipeline.finish(generation_id)
        assert pipeline.balance(ada) == (left, 0)
    assert (await ada.create("scene_hd")).status_code == 402
