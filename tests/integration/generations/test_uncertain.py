"""When nobody can know whether the provider took it: one image, one charge, and never a loss."""

import pytest

from tests.harness.pipeline import WEBHOOKS, PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


@pytest.mark.parametrize("fault", ["accept_then_drop", "accept_then_500"])
async def test_a_lost_answer_is_made_good_by_the_webhook(
    fault: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault(fault)
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    assert pipeline.state(generation_id) == "uncertain"
    assert pipeline.call(generation_id)["state"] == "ambiguous"
    await pipeline.router.let_through()
    await pipeline.settle()
    assert pipeline.state(generation_id) == "running"

    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    assert (found["attempts"], found["resubmissions"]) == (0, 0)
    assert len(await pipeline.paid_calls()) == len(pipeline.calls(generation_id)) == 1
    assert pipeline.balance(ada) == (9, 0)


async def test_an_answer_of_its_own_keeps_the_slot_for_less_long(
    open_pipeline: OpenPipeline,
) -> None:
    """With two slots, failures at the gateway let one order a minute through."""
    async with open_pipeline(provider_account_slots=2) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("submit_5xx", times=2, status=500)
        for _ in range(3):
            await ada.start()
        await pipeline.dispatch()
        assert await pipeline.dispatch() == 0, "they may run there"
        pipeline.clock.advance(seconds=61)
        await pipeline.sweep()
        assert await pipeline.dispatch() == 2
        assert len(await pipeline.paid_calls()) == 2


async def test_after_the_grace_it_is_sent_once_more_and_counted(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("accept_then_drop", nth=1)
    await pipeline.fault("webhook_never", nth=1)
    generation_id = await ada.start()
    await pipeline.submit()
    assert pipeline.state(generation_id) == "uncertain"
    assert await pipeline.sweep() == 0, "the grace is not over"
    assert await pipeline.poll() == 0, "there is nothing to poll"
    pipeline.pass_grace()
    assert await pipeline.sweep() == 1

    found = pipeline.generation(generation_id)
    assert (found["state"], found["resubmissions"], found["attempts"]) == ("queued", 1, 1)
    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    first, second = pipeline.calls(generation_id)
    assert (first["state"], first["is_resubmission"]) == ("abandoned", False)
    assert (second["state"], second["is_resubmission"]) == ("succeeded", True)
    assert len(await pipeline.paid_calls()) == 2, "the second is the counted one"
    assert pipeline.balance(ada) == (9, 0), "the user pays one"


async def test_a_worker_killed_before_its_post(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """The call's row is there, nobody sent anything, nobody can know that."""
    generation_id = await ada.start()
    await pipeline.open_calls()
    assert await pipeline.sweep() == 0, "its lease has not ended"
    pipeline.pass_leases()
    assert await pipeline.sweep() == 1
    assert (pipeline.state(generation_id), pipeline.call(generation_id)["state"]) == (
        "uncertain",
        "ambiguous",
    )
    pipeline.pass_grace()
    await pipeline.sweep()
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["resubmissions"]) == ("succeeded", 1)
    assert len(await pipeline.paid_calls()) == 1
    assert pipeline.balance(ada) == (9, 0)


async def test_a_worker_killed_after_its_post(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """The provider has it, the answer was never recorded: its webhook tells."""
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    (intent,) = await pipeline.open_calls()
    await pipeline.post(intent)
    assert pipeline.call(generation_id)["state"] == "submitting"
    await pipeline.router.let_through()
    await pipeline.settle()
    assert pipeline.state(generation_id) == "running"
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["resubmissions"]) == ("succeeded", 0)
    assert len(await pipeline.paid_calls()) == 1


async def test_the_webhook_may_overtake_the_answer(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("webhook_reordered")
    generation_id = await ada.start()
    await pipeline.dispatch()
    call = pipeline.call(generation_id)
    assert call["webhook_at"] is not None
    assert call["status_url"] is not None, "the late answer fills the empty fields"
    assert (pipeline.state(generation_id), call["state"]) == ("running", "accepted")
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
    assert len(await pipeline.paid_calls()) == 1


async def test_the_image_may_overtake_the_answer(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Collected and delivered before the submit's answer is recorded, which changes nothing."""
    generation_id = await ada.start()
    (intent,) = await pipeline.open_calls()
    accepted = await pipeline.post(intent)
    await pipeline.settle()
    await pipeline.run_tasks("provider_call.collect")
    assert pipeline.state(generation_id) == "succeeded"
    await pipeline.record(intent, accepted)
    call = pipeline.call(generation_id)
    assert (pipeline.state(generation_id), call["state"]) == ("succeeded", "succeeded")
    assert call["next_poll_at"] is None
    await pipeline.run_tasks()
    assert pipeline.balance(ada) == (9, 0)


async def test_the_first_call_may_win_after_all(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """Its webhook comes when a second call runs: its image is taken, the second is cancelled."""
    await pipeline.fault("accept_then_drop", nth=1)
    await pipeline.fault("never_finishes", nth=2)
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    pipeline.pass_grace()
    await pipeline.sweep()
    await pipeline.dispatch()
    first, second = pipeline.calls(generation_id)
    assert (first["state"], second["state"]) == ("abandoned", "accepted")
    await pipeline.router.let_through()
    await pipeline.settle_one(first["id"])
    found = await pipeline.finish(generation_id)

    assert found["state"] == "succeeded"
    assert str(first["id"]) in found["result"]["storage_key"]
    assert pipeline.balance(ada) == (9, 0)
    assert [call["state"] for call in await pipeline.paid_calls()] == ["billed", "cancelled"]
    await pipeline.poll()
    await pipeline.run_tasks()
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["succeeded", "cancelled"]
    assert pipeline.jobs() == []


async def test_the_first_call_may_come_second(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """Its image comes when the second one has been delivered: kept by nobody, charged to nobody."""
    await pipeline.fault("accept_then_drop", nth=1)
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    pipeline.pass_grace()
    await pipeline.sweep()
    await pipeline.dispatch()
    second = pipeline.calls(generation_id)[1]
    await pipeline.router.let_through(str(second["id"]))
    await pipeline.settle_one(second["id"])
    await pipeline.run_tasks()
    assert pipeline.state(generation_id) == "succeeded"

    await pipeline.router.let_through()
    await pipeline.settle()
    await pipeline.run_tasks()
    assert [call["state"] for call in pipeline.calls(generation_id)] == ["succeeded", "succeeded"]
    assert [call["state"] for call in await pipeline.paid_calls()] == ["billed", "billed"]
    assert pipeline.balance(ada) == (9, 0)
    assert pipeline.database.rows("select 1 from app.late_images") == []
    assert str(second["id"]) in pipeline.generation(generation_id)["result"]["storage_key"]


async def test_a_superseded_call_that_fails_decides_nothing(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("accept_then_drop", nth=1)
    await pipeline.fault("content_policy", nth=1)
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    pipeline.pass_grace()
    await pipeline.sweep()
    await pipeline.dispatch()
    first = pipeline.calls(generation_id)[0]
    await pipeline.router.let_through(str(first["id"]))
    await pipeline.settle_one(first["id"])
    await pipeline.run_tasks("provider_call.collect")
    assert pipeline.calls(generation_id)[0]["state"] == "failed"
    await pipeline.router.let_through()
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
    assert pipeline.balance(ada) == (9, 0)


async def test_a_provider_that_never_answers_clearly(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Every answer is lost and no webhook comes: after all attempts it waits for its deadline."""
    await pipeline.fault("accept_then_drop")
    await pipeline.fault("webhook_never")
    generation_id = await ada.start()
    for _ in range(5):
        await pipeline.submit()
        pipeline.pass_grace()
        await pipeline.sweep()
        pipeline.pass_backoff()
    assert len(pipeline.calls(generation_id)) == pipeline.ctx.settings.provider_attempts_max
    assert pipeline.state(generation_id) == "uncertain"
    assert pipeline.balance(ada) == (9, 1)
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    found = pipeline.generation(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "deadline_exceeded")
    assert pipeline.balance(ada) == (10, 0)


# --- deadlines -----------------------------------------------------------------------------------


async def test_never_finished_is_cancelled_there_and_refunded(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("never_finishes")
    generation_id = await ada.start()
    await pipeline.dispatch()
    pipeline.pass_give_up(generation_id)
    await pipeline.sweep()
    assert pipeline.state(generation_id) == "uncertain"
    assert pipeline.balance(ada) == (9, 1), "not yet: it may be paid for"
    assert await pipeline.sweep() == 0, "once"
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "deadline_exceeded")
    assert pipeline.balance(ada) == (10, 0)
    assert [call["state"] for call in await pipeline.paid_calls()] == ["cancelled"]


async def test_an_image_between_giving_up_and_the_deadline_is_delivered(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("cancel_race")
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    pipeline.pass_give_up(generation_id)
    await pipeline.sweep()
    await pipeline.run_tasks("provider_call.cancel")
    await pipeline.router.let_through()
    await pipeline.settle()
    found = await pipeline.finish(generation_id)
    assert found["state"] == "succeeded"
    assert pipeline.balance(ada) == (9, 0)


async def test_an_image_after_the_refund_is_kept_for_sale(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("cancel_race")
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    pipeline.pass_give_up(generation_id)
    await pipeline.sweep()
    await pipeline.run_tasks("provider_call.cancel")
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    assert (pipeline.state(generation_id), pipeline.balance(ada)) == ("failed", (10, 0))
    assert pipeline.call(generation_id)["state"] == "abandoned"

    await pipeline.router.let_through()
    await pipeline.settle()
    await pipeline.run_tasks()
    (image,) = pipeline.database.rows("select * from app.late_images")
    assert str(image["generation_id"]) == generation_id
    call = pipeline.call(generation_id)
    assert (call["state"], pipeline.state(generation_id)) == ("succeeded", "failed")
    assert float(call["billable_units"]) == (await pipeline.paid_calls())[0]["billable_units"]
    assert pipeline.balance(ada) == (10, 0)
    bought = await ada.post(f"/v1/generations/{generation_id}/late-image")
    assert (bought.status_code, pipeline.balance(ada)) == (201, (9, 0))


async def test_a_late_failure_changes_nothing(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("content_policy")
    generation_id = await ada.start()
    await pipeline.submit()
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    before = pipeline.generation(generation_id)
    await pipeline.run_tasks()
    assert pipeline.generation(generation_id) == before
    assert pipeline.call(generation_id)["state"] == "failed"
    assert pipeline.database.rows("select 1 from app.late_images") == []


async def test_a_late_first_step_is_no_image(pipeline: PipelineHarness) -> None:
    ada = await pipeline.person()
    generation_id = await ada.start("scene_hd")
    await pipeline.submit()
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    await pipeline.run_tasks()
    assert pipeline.database.rows("select 1 from app.late_images") == []
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.submits() == 1


async def test_polling_looks_for_late_images_too(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.submit()
        pipeline.pass_deadline(generation_id)
        await pipeline.sweep()
        assert pipeline.call(generation_id)["state"] == "abandoned"
        assert await pipeline.poll() == 1
        await pipeline.run_tasks()
        assert len(pipeline.database.rows("select 1 from app.late_images")) == 1
