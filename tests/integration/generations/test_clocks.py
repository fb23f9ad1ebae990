"""Two clocks, of which one runs: waiting for a turn, and the work."""

import psycopg
import pytest

from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline

WAIT_MINUTES = 30
CLOCKS = "wait_until", "started_at", "give_up_at", "deadline_at", "held_at"


def running(pipeline: PipelineHarness, generation_id: str) -> set[str]:
    """The clocks that are set."""
    found = pipeline.generation(generation_id)
    return {name for name in CLOCKS if found[name] is not None}


WAITING = {"wait_until"}
WORKING = {"started_at", "give_up_at", "deadline_at"}


async def test_waiting_in_line_is_no_failure_of_the_work(open_pipeline: OpenPipeline) -> None:
    """One slot, held for longer than a whole deadline: who waits is still waiting."""
    async with open_pipeline(provider_account_slots=1) as pipeline:
        ada, bob = await pipeline.person(), await pipeline.person()
        await pipeline.fault("never_finishes", times=1)
        stuck, waiting = await ada.start(), await bob.start()
        await pipeline.dispatch()
        pipeline.pass_give_up(stuck)
        await pipeline.sweep()
        await pipeline.run_tasks("provider_call.cancel")
        pipeline.pass_deadline(stuck)
        await pipeline.sweep()
        assert (pipeline.state(stuck), pipeline.state(waiting)) == ("failed", "queued")
        found = await pipeline.finish(waiting)
        assert (found["state"], found["attempts"]) == ("succeeded", 0)


async def test_who_waits_too_long_ends_free_and_is_told_so(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    pipeline.clock.advance(minutes=WAIT_MINUTES - 1)
    assert await pipeline.sweep() == 0
    pipeline.pass_wait(generation_id)
    assert await pipeline.dispatch() == 0, "its time is over, whoever sees it first"
    assert await pipeline.sweep() == 1
    view = await ada.read(generation_id)
    assert (view["state"], view["money"]) == ("failed", "refunded")
    assert view["problem"]["code"] == "waited_too_long"
    assert "never started" in view["problem"]["detail"]
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.submits() == 0


async def test_a_batch_waits_for_two_days(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start(priority="batch")
    pipeline.clock.advance(hours=47)
    assert await pipeline.sweep() == 0
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_the_working_clock_begins_with_the_first_accepted_call(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    assert running(pipeline, generation_id) == WAITING
    first = await ada.read(generation_id)
    pipeline.clock.advance(minutes=20)
    (intent,) = await pipeline.open_calls()
    assert running(pipeline, generation_id) == WAITING, "nobody has taken it yet"
    assert intent.seconds_left == 13 * 60, "of the work, and none of them is over"
    await pipeline.record(intent, await pipeline.post(intent))
    assert running(pipeline, generation_id) == WORKING
    found = pipeline.generation(generation_id)
    assert (found["give_up_at"] - found["started_at"]).total_seconds() == 13 * 60
    assert (found["deadline_at"] - found["started_at"]).total_seconds() == 15 * 60
    then = await ada.read(generation_id)
    assert (then["wait_until"], first["wait_until"] is not None) == (None, True)
    assert then["deadline_at"] < first["deadline_at"], "a promise only ever comes earlier"


@pytest.mark.parametrize("fault", ["rate_limited", "not_sent"])
async def test_a_refused_submit_sets_it_back_to_waiting(
    fault: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    before = pipeline.generation(generation_id)["wait_until"]
    if fault == "rate_limited":
        await pipeline.fault("rate_limited", times=1, retry_after=1)
        await pipeline.dispatch()
    else:
        (intent,) = await pipeline.open_calls()
        await pipeline.move(
            'select app.record_not_accepted(%s, \'{"state": "refused"}\', 1)', (intent.call_id,)
        )
    assert pipeline.state(generation_id) == "queued"
    assert running(pipeline, generation_id) == WAITING
    assert pipeline.generation(generation_id)["wait_until"] == before
    pipeline.pass_cooldown()
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_what_may_have_been_accepted_works(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("accept_then_drop", times=1)
    await pipeline.fault("webhook_never", times=1)
    generation_id = await ada.start()
    pipeline.clock.advance(minutes=20)
    await pipeline.dispatch()
    assert pipeline.state(generation_id) == "uncertain"
    assert running(pipeline, generation_id) == WORKING
    pipeline.pass_grace()
    await pipeline.sweep()
    found = pipeline.generation(generation_id)
    assert (found["state"], found["line"]) == ("queued", "begun:fal")
    assert running(pipeline, generation_id) == WORKING, "back in line, but its work has begun"
    pipeline.pass_give_up(generation_id)
    await pipeline.sweep()
    assert pipeline.generation(generation_id)["ending"] == "deadline_exceeded"


async def test_all_steps_share_one_working_clock(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start("scene_hd")
    await pipeline.submit()
    before = pipeline.generation(generation_id)
    pipeline.clock.advance(minutes=5)
    await pipeline.run_tasks()
    after = pipeline.generation(generation_id)
    assert (before["step"], after["step"]) == (0, 1)
    assert after["deadline_at"] == before["deadline_at"]


async def test_no_generation_is_without_a_clock_or_has_two(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    for change in (
        "wait_until = null",
        "deadline_at = app.now(), give_up_at = app.now(), started_at = app.now()",
        "started_at = app.now()",
        "give_up_at = app.now()",
        "held_at = app.now(), wait_left = interval '1 hour'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await pipeline.move(
                f"update app.generations set {change} where id = %s",
                (generation_id,),
            )


async def test_what_is_held_leaves_its_line_and_comes_back(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    held, other = await ada.start(), await ada.start()
    await pipeline.move(
        "update app.generations set held_at = app.now(), wait_left = wait_until - app.now(),"
        " wait_until = null where id = %s",
        (held,),
    )
    pipeline.clock.advance(minutes=WAIT_MINUTES * 2)
    await pipeline.move(
        "update app.generations set wait_until = app.now() + interval '1 hour' where id = %s",
        (other,),
    )
    assert await pipeline.sweep() == 0
    served = await pipeline.open_calls(limit=5)
    assert [str(call.generation_id) for call in served] == [other]
    view = await ada.read(held)
    assert (view["wait_until"], view["deadline_at"]) == (None, None)
    await pipeline.move(
        "update app.generations set wait_until = app.now() + wait_left, held_at = null,"
        " wait_left = null where id = %s",
        (held,),
    )
    (call,) = await pipeline.open_calls(limit=5)
    assert str(call.generation_id) == held


async def test_only_the_clock_of_the_database_counts(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The worker's own clock stays hours behind; nothing that is sent or decided shows it."""
    pipeline.clock.advance(hours=5)
    generation_id = await ada.start()
    await pipeline.dispatch()
    (post,) = pipeline.router.posts_to("http://127.0.0.1:54330", "/fal-ai/")
    assert float(post.headers["x-fal-request-timeout"]) == 13 * 60
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
