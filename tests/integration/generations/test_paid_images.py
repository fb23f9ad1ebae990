"""What the provider was paid for is delivered, whatever goes wrong for a while after its end."""

from typing import Any

import pytest

from core.generations.pipeline import fail
from core.generations.providers.types import Unknown
from tests.harness.pipeline import FAL_URL, WEBHOOKS, PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


def looks(pipeline: PipelineHarness) -> int:
    """Requests about calls and their files, so far."""
    return sum(
        request.method == "GET"
        and (":54330" in str(request.url))
        and "jwks" not in str(request.url)
        for request in pipeline.router.sent
    )


async def delivered(
    pipeline: PipelineHarness, person: PhotoOwner, generation_id: str, *, rounds: int = 12
) -> None:
    """One image, paid once there and here."""
    found = await pipeline.finish(generation_id, rounds=rounds)
    assert (found["state"], found["attempts"]) == ("succeeded", 0), found["ending"]
    (paid,) = await pipeline.paid_calls()
    call = pipeline.call(generation_id)
    assert (paid["state"], call["state"]) == ("billed", "succeeded")
    assert pipeline.balance(person) == (9, 0)
    assert pipeline.jobs() == []


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        ("server_error", {"times": 9}),
        ("server_error", {"times": 9, "args": {"html": True}}),
        ("not_found", {"times": 3}),
        ("rate_limited", {"times": 5}),
        ("locked", {"times": 5}),
        ("truncated", {"times": 1}),
        ("broken", {"times": 2}),
        ("html_page", {"times": 2}),
    ],
)
@pytest.mark.parametrize("operation", ["cutout", "packshot"])
async def test_a_file_that_is_away_or_spoilt_for_a_while(
    kind: str,
    rest: dict[str, Any],
    operation: str,
    pipeline: PipelineHarness,
    ada: PhotoOwner,
) -> None:
    generation_id = await ada.start(operation)
    await pipeline.submit()
    await pipeline.outage(kind, routes=["file"], **rest)
    await delivered(pipeline, ada, generation_id, rounds=15)


async def test_a_storage_that_is_away_is_waited_for(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Results and files fail in turn, each longer than any count allows."""
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.outage("server_error", routes=["result"], times=4, args={"html": True})
    await pipeline.outage("server_error", routes=["file"], times=1)
    await delivered(pipeline, ada, generation_id, rounds=15)


async def test_a_file_may_be_away_until_the_deadline_and_comes_late(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.outage("server_error", routes=["file"])
    for _ in range(12):
        await pipeline.run_tasks()
        pipeline.pass_backoff()
    assert pipeline.state(generation_id) == "collecting", "not given up while there is time"
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    assert pipeline.balance(ada) == (10, 0)
    await pipeline.heal()
    for _ in range(3):
        pipeline.pass_backoff()
        await pipeline.run_tasks()
        await pipeline.poll()
    assert len(pipeline.database.rows("select 1 from app.late_images")) == 1
    assert pipeline.jobs() == []


async def test_a_file_that_stays_missing_ends_it(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.outage("not_found", routes=["file"])
    began = pipeline.now()
    found = await pipeline.finish(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "output_broken")
    assert 30 < (pipeline.now() - began).total_seconds() < 120
    assert pipeline.balance(ada) == (10, 0)
    assert len(await pipeline.paid_calls()) == 1


# --- one 404 -------------------------------------------------------------------------------------


async def test_one_404_of_the_status_between_others(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        await pipeline.tune(model_seconds=30)
        generation_id = await ada.start()
        await pipeline.dispatch()
        await pipeline.outage("not_found", routes=["status"], after=3, times=1)
        for _ in range(5):
            await pipeline.poll()
        await pipeline.heal()
        await pipeline.outage("not_found", routes=["status"], times=1)
        await pipeline.poll()
        assert pipeline.state(generation_id) == "running"
        assert [call["state"] for call in pipeline.calls(generation_id)] == ["accepted"]
        assert len(await pipeline.paid_calls()) == 1


async def test_one_404_of_the_result(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """The webhook is faster than the provider's store."""
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.outage("not_found", routes=["result"], times=1)
    await delivered(pipeline, ada, generation_id)


@pytest.mark.parametrize("kind", ["not_found", "path_not_found"])
async def test_a_result_that_stays_unknown(
    kind: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("webhook_never", nth=2)
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.outage(kind, routes=["result"], times=2)
    found = await pipeline.finish(generation_id)
    states = [call["state"] for call in pipeline.calls(generation_id)]
    if kind == "not_found":
        assert (found["state"], states) == ("succeeded", ["lost", "succeeded"])
        return
    assert (found["ending"], states) == ("provider_failed_once", ["lost"])
    said = (await ada.read(generation_id))["problem"]["detail"]
    assert "more than once" not in said


async def test_a_call_is_not_lost_while_it_is_collected(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The poller's second 404 comes when the webhook's collector is fetching the file."""
    generation_id = await ada.start()
    await pipeline.submit()
    assert "provider_call.collect" in pipeline.jobs()
    await fail.lose_call(pipeline.ctx, pipeline.call(generation_id)["id"], Unknown())
    assert pipeline.call(generation_id)["state"] == "accepted"
    await delivered(pipeline, ada, generation_id)


async def test_a_lost_call_whose_webhook_comes_after_all(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Its image is used, and the provider's book and ours say the same."""
    pipeline.router.hold(WEBHOOKS)
    generation_id = await ada.start()
    await pipeline.dispatch()
    call_id = pipeline.call(generation_id)["id"]
    await fail.lose_call(pipeline.ctx, call_id, Unknown())
    assert pipeline.state(generation_id) == "queued"
    await pipeline.router.let_through()
    await pipeline.settle()
    await pipeline.run_tasks("provider_call.collect")
    found = pipeline.generation(generation_id)
    assert (found["state"], found["resubmissions"]) == ("succeeded", 0)
    assert pipeline.call(generation_id)["state"] == "succeeded"
    assert len(await pipeline.paid_calls()) == 1


async def test_a_webhook_during_the_return_to_polling_is_not_lost(
    open_pipeline: OpenPipeline,
) -> None:
    """It finds the task that is just being ended, which then runs once more."""
    async with open_pipeline(provider_polling=False) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("delay_run", seconds=0.3)
        pipeline.router.hold(f"{WEBHOOKS}")
        generation_id = await ada.start()
        await pipeline.dispatch()
        call_id = pipeline.call(generation_id)["id"]
        await pipeline.move("select app.ensure_collect(%s)", (call_id,))
        assert await pipeline.run_tasks("provider_call.collect") == ["again"], "not yet"
        await pipeline.router.let_through()
        await pipeline.settle()
        await delivered(pipeline, ada, generation_id)


# --- the model's own failures --------------------------------------------------------------------


@pytest.mark.parametrize(
    "error_type", ["internal_server_error", "generation_timeout", "downstream_service_unavailable"]
)
async def test_a_models_own_failure_is_tried_again_at_once(
    error_type: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Without a label in its status and without a bill: the list of errors is a runner's answer."""
    await pipeline.fault("model_5xx", times=1, type=error_type)
    generation_id = await ada.start()
    await pipeline.submit()
    began = pipeline.now()
    await pipeline.run_tasks()
    found = pipeline.generation(generation_id)
    assert (found["state"], found["attempts"]) == ("queued", 1)
    assert (found["available_at"] - began).total_seconds() < 5
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
    assert [call["state"] for call in await pipeline.paid_calls()] == ["failed", "billed"]


@pytest.mark.parametrize("args", [{"status": 500}, {"status": 503, "html": True}])
async def test_the_gateways_failure_is_not_the_models(
    args: dict[str, Any], pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.submit()
    await pipeline.outage("server_error", routes=["result"], times=6, args=args)
    await delivered(pipeline, ada, generation_id)


# --- looks at what nobody waits for --------------------------------------------------------------


@pytest.mark.parametrize("polling", [True, False])
async def test_looks_at_abandoned_calls_have_an_end(
    open_pipeline: OpenPipeline, *, polling: bool
) -> None:
    """A result that never becomes clear was fetched 36,000 times in the day after its refund."""
    async with open_pipeline(provider_polling=polling) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.submit()
        await pipeline.outage("server_error", routes=["result"])
        await pipeline.run_tasks()
        pipeline.pass_deadline(generation_id)
        await pipeline.sweep()
        assert pipeline.call(generation_id)["state"] == "abandoned"
        before, began = looks(pipeline), pipeline.now()
        for _ in range(200):
            pipeline.pass_backoff()
            await pipeline.run_tasks()
            if polling:
                await pipeline.poll()
            is_polled = polling and pipeline.call(generation_id)["next_poll_at"] is not None
            if not pipeline.jobs() and not is_polled:
                break
        assert (pipeline.jobs(), is_polled) == ([], False)
        assert looks(pipeline) - before < 250
        assert (pipeline.now() - began).total_seconds() > 5 * 3600


async def test_a_cancel_that_nobody_answers_has_an_end(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("never_finishes")
    generation_id = await ada.start()
    await pipeline.dispatch()
    await pipeline.outage("server_error", routes=["cancel"], args={"html": True})
    pipeline.pass_give_up(generation_id)
    await pipeline.sweep()
    for _ in range(8):
        await pipeline.run_tasks("provider_call.cancel")
        pipeline.pass_backoff()
    assert "provider_call.cancel" in pipeline.jobs(), "it runs there and would be billed"
    pipeline.pass_deadline(generation_id)
    await pipeline.sweep()
    await pipeline.run_tasks()
    assert "provider_call.cancel" not in pipeline.jobs()


# --- cancelling ----------------------------------------------------------------------------------


async def test_an_uncertain_one_that_is_cancelled_ends_after_the_grace(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("accept_then_drop")
    await pipeline.fault("webhook_never")
    generation_id = await ada.start()
    await pipeline.submit()
    assert pipeline.state(generation_id) == "uncertain"
    answer = await ada.post(f"/v1/generations/{generation_id}/cancel")
    assert answer.status_code in {200, 202}
    await pipeline.sweep()
    assert pipeline.state(generation_id) == "uncertain", "its webhook may still come"
    pipeline.pass_grace()
    await pipeline.sweep()
    found = pipeline.generation(generation_id)
    assert (found["state"], found["ending"], found["resubmissions"]) == (
        "cancelled",
        "cancelled",
        0,
    )
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.submits() == 1


async def test_the_provider_is_asked_to_cancel_once(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("cancel_race")
    await pipeline.tune(model_seconds=30)
    generation_id = await ada.start()
    await pipeline.dispatch()
    for _ in range(4):
        answer = await ada.post(f"/v1/generations/{generation_id}/cancel")
        assert answer.status_code in {200, 202}
        await pipeline.run_tasks()
    asked = [
        request
        for request in pipeline.router.sent
        if request.method == "PUT" and str(request.url).startswith(FAL_URL)
    ]
    assert len(asked) == 1
