"""Slow files of one person hold few of a process's places, and none of others'."""

import asyncio

from tests.harness.pipeline import PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


async def _fetching(pipeline: PipelineHarness, count: int) -> None:
    """Until so many files are asked for."""
    async with asyncio.timeout(10):
        while (  # noqa: ASYNC110  set in many places
            sum(request.url.path.startswith("/files/") for request in pipeline.router.sent) < count
        ):
            await asyncio.sleep(0.01)


async def test_slow_files_of_one_person_hold_few_places(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(worker_slots_provider=8, provider_account_slots=20) as pipeline:
        ada, bob = await pipeline.person(), await pipeline.person()
        for _ in range(5):
            await ada.start()
        await pipeline.submit()
        ids = [task["id"] for task in pipeline.tasks() if task["job"] == "provider_call.collect"]
        assert len(ids) == 5
        pipeline.router.hold("/files/")
        running = [asyncio.create_task(pipeline.run_one(each)) for each in ids]
        await _fetching(pipeline, 5)
        async with asyncio.timeout(10):
            while sum(task.done() for task in running) < 3:  # noqa: ASYNC110  they end by themselves
                await asyncio.sleep(0.01)
        assert not pipeline.ctx.slow_answers.is_free(ada.id)
        assert pipeline.ctx.slow_answers.is_free(bob.id)
        await pipeline.router.let_through()
        assert sorted(await asyncio.gather(*running)) == ["done"] * 2 + ["retry"] * 3
        assert pipeline.ctx.slow_answers.is_free(ada.id)
        rest = [task for task in pipeline.tasks() if task["job"] == "provider_call.collect"]
        assert [task["failures"] for task in rest] == [{"absent": 1}] * 3, "no attempt is used up"
        pipeline.pass_backoff()
        assert await pipeline.run_tasks("provider_call.collect") == ["done"] * 3
        assert pipeline.balance(ada) == (5, 0)


async def test_files_that_wait_their_turn_are_never_given_up_for_it(
    open_pipeline: OpenPipeline,
) -> None:
    async with open_pipeline(worker_slots_provider=4, provider_account_slots=20) as pipeline:
        ada = await pipeline.person()
        for _ in range(2):
            await ada.start()
        await pipeline.submit()
        first, second = (
            task["id"] for task in pipeline.tasks() if task["job"] == "provider_call.collect"
        )
        pipeline.router.hold("/files/")
        held = asyncio.create_task(pipeline.run_one(first))
        await _fetching(pipeline, 1)
        async with asyncio.timeout(10):
            while pipeline.ctx.slow_answers.is_free(ada.id):  # noqa: ASYNC110  after a second
                await asyncio.sleep(0.01)
        for _ in range(6):
            assert await pipeline.run_one(second) == "retry"
            pipeline.pass_backoff()
        await pipeline.router.let_through()
        assert await held == "done"
        assert await pipeline.run_one(second) == "done"
        assert pipeline.balance(ada) == (8, 0)


async def test_cancels_that_hang_hold_few_places(open_pipeline: OpenPipeline) -> None:
    """A whole batch may be cancelled at once, at a provider that says nothing."""
    async with open_pipeline(worker_slots_provider=8, provider_account_slots=20) as pipeline:
        await pipeline.fault("never_finishes")
        ada = await pipeline.person()
        made = [await ada.start() for _ in range(4)]
        await pipeline.dispatch()
        for generation_id in made:
            await ada.post(f"/v1/generations/{generation_id}/cancel")
        ids = [task["id"] for task in pipeline.tasks() if task["job"] == "provider_call.cancel"]
        assert len(ids) == 4
        pipeline.router.hold("/fal-ai/")
        running = [asyncio.create_task(pipeline.run_one(each)) for each in ids]
        async with asyncio.timeout(10):
            while sum(task.done() for task in running) < 3:  # noqa: ASYNC110  they end by themselves
                await asyncio.sleep(0.01)
        await pipeline.router.let_through()
        assert sorted(await asyncio.gather(*running)) == ["done"] + ["retry"] * 3
        pipeline.pass_backoff()
        await pipeline.run_tasks("provider_call.cancel")
        for generation_id in made:
            await pipeline.finish(generation_id)
        assert pipeline.balance(ada) == (10, 0)
