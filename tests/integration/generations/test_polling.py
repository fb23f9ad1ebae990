"""How polls share a process: one that hangs delays no other, nor do those of abandoned calls."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.generations.pipeline import poll
from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[PipelineHarness]:
    async with open_pipeline(provider_webhooks=False, provider_account_slots=100) as opened:
        yield opened


async def _running(pipeline: PipelineHarness, owner: PhotoOwner, count: int) -> list[str]:
    made = [await owner.start() for _ in range(count)]
    await pipeline.submit()
    pipeline.database.rows("delete from app.outbox")
    return made


def _collected(pipeline: PipelineHarness) -> list[str]:
    rows = pipeline.database.rows(
        "select call.generation_id::text as id from app.outbox as task"
        " join app.provider_calls as call on call.id::text = task.dedupe_key"
        " where task.job = 'provider_call.collect'"
    )
    return [row["id"] for row in rows]


async def test_a_poll_that_hangs_delays_no_other(pipeline: PipelineHarness) -> None:
    ada, bob = await pipeline.person(), await pipeline.person()
    await _running(pipeline, ada, 4)
    (wanted,) = await _running(pipeline, bob, 1)
    pipeline.router.hold("/fal-ai/")
    await pipeline.router.let_through(pipeline.call(wanted)["request_id"])
    try:
        pipeline.pass_polls()
        async with asyncio.timeout(5):
            assert await poll.poll_due(pipeline.ctx) == 5
            while _collected(pipeline) != [wanted]:  # noqa: ASYNC110  the database is filled
                await asyncio.sleep(0.02)
            while pipeline.ctx.poll_places.free != 46:  # noqa: ASYNC110  a poll's last breath
                await asyncio.sleep(0.02)
        pipeline.pass_polls()
        async with asyncio.timeout(5):
            assert await poll.poll_due(pipeline.ctx) == 4, "the next round has places, too"
    finally:
        await pipeline.router.let_through()
        await pipeline.ctx.wait_for_background(timeout_seconds=20)
    assert pipeline.ctx.poll_places.free == 50


async def test_abandoned_calls_stand_in_a_line_of_their_own(pipeline: PipelineHarness) -> None:
    ada = await pipeline.person(100)
    made = await _running(pipeline, ada, 60)
    wanted = made[-1]
    await pipeline.move(
        "update app.provider_calls set state = 'abandoned', ended_at = app.now()"
        " where generation_id <> %s",
        (wanted,),
    )
    pipeline.router.hold("/fal-ai/")
    await pipeline.router.let_through(pipeline.call(wanted)["request_id"])
    try:
        pipeline.pass_polls()
        assert await poll.poll_due(pipeline.ctx) == 1 + 10
        async with asyncio.timeout(5):
            while wanted not in _collected(pipeline):  # noqa: ASYNC110  the database is filled
                await asyncio.sleep(0.02)
        pipeline.pass_polls()
        assert await poll.poll_due(pipeline.ctx) == 0, "ten hang, and no other is begun"
    finally:
        await pipeline.router.let_through()
        await pipeline.ctx.wait_for_background(timeout_seconds=20)


async def test_calls_of_keys_that_are_gone_are_due_for_a_day_only(
    pipeline: PipelineHarness,
) -> None:
    """They stood at the head of the line for ever, and each tick of each process passed them."""
    ada = await pipeline.person()
    (made,) = await _running(pipeline, ada, 1)
    for hours, is_due in ((24, True), (2, False)):
        pipeline.clock.advance(hours=hours)
        await pipeline.sweep()
        await pipeline.move(
            "select app.add_task('provider_calls.end_polls', '{}', p_delay_seconds => 0)"
        )
        assert await pipeline.run_tasks("provider_calls.end_polls") == ["done"]
        assert (pipeline.call(made)["next_poll_at"] is not None) is is_due
