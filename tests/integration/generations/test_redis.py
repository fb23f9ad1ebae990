"""Redis is disposable: what happens without it, after it was flushed, and through it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import redis.asyncio
import rq
from pydantic import SecretStr

from core.tasks import outbox, wakeups
from core.tasks.queues import Queue
from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline
from worker import loops, runner
from worker.loops.heartbeat import Heartbeat
from worker.loops.relay import Relay
from worker.process import open_redis
from worker.registry import QUEUES
from worker.rq_threads import WorkerThreads


@contextlib.asynccontextmanager
async def relay(pipeline: PipelineHarness) -> AsyncIterator[Relay]:
    connection = open_redis(pipeline.ctx.settings)
    yield Relay(pipeline.ctx, connection)
    await connection.aclose()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass
    writer.close()


async def test_work_is_taken_while_redis_is_away(open_pipeline: OpenPipeline) -> None:
    away = SecretStr("redis://127.0.0.1:9")
    async with open_pipeline(api={"redis_url": away, "rate_limits_enabled": True}) as pipeline:
        ada = await pipeline.person()
        started = time.monotonic()
        made = [await ada.start() for _ in range(3)]
        assert time.monotonic() - started < 3
        assert pipeline.queued_jobs() == []

        pipeline.pass_backoff()
        async with relay(pipeline) as sender:
            await sender.tick()
        assert pipeline.queued_jobs() == pipeline.wake_ups()
        for generation_id in made:
            assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_a_redis_that_never_answers_holds_nobody_up(open_pipeline: OpenPipeline) -> None:
    silent = await asyncio.start_server(_silent, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    url = SecretStr(f"redis://127.0.0.1:{port}")
    async with (
        silent,
        open_pipeline(api={"redis_url": url, "rate_limits_enabled": True}) as pipeline,
    ):
        ada = await pipeline.person()
        for _ in range(3):
            started = time.monotonic()
            await ada.start()
            assert time.monotonic() - started < 3
        silent.close()


async def test_what_was_flushed_is_sent_again(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    async with relay(pipeline) as sender:
        await sender.tick()
        await ada.start()
        await pipeline.until_woken()
        await pipeline.move("update app.outbox set due_at = app.now() + interval '5 minutes'")
        await sender.tick()
        assert len(pipeline.queued_jobs()) == 1
        await pipeline.flush_redis()
        assert pipeline.queued_jobs() == []
        await sender.tick()
        assert pipeline.queued_jobs() == pipeline.wake_ups()


async def test_a_flush_shortens_no_backoff(pipeline: PipelineHarness) -> None:
    async with relay(pipeline) as sender:
        await sender.tick()
        await pipeline.move(
            "insert into app.outbox (job, failures, due_at)"
            " values ('x', '{\"error\": 3}', app.now() + interval '1 minute')"
        )
        await pipeline.flush_redis()
        await sender.tick()
        assert pipeline.queued_jobs() == []


async def test_two_relays_send_a_task_once(pipeline: PipelineHarness) -> None:
    # Added beside every process, so that no commit sends them as well, whenever that arrives.
    for _ in range(5):
        await pipeline.move("select app.add_task('generation.dispatch', '{}')")
    async with relay(pipeline) as one, relay(pipeline) as two:
        await one.tick()
        await pipeline.flush_redis()
        await pipeline.ctx.db.run(outbox.make_all_due)
        connection = open_redis(pipeline.ctx.settings)
        await connection.set(f"{pipeline.ctx.settings.redis_prefix}:epoch", "x")
        await connection.aclose()
        await asyncio.gather(one.tick(), two.tick())
    assert sorted(pipeline.queued_jobs()) == sorted(pipeline.wake_ups())


async def test_each_task_is_sent_to_the_queue_of_its_job(pipeline: PipelineHarness) -> None:
    """That of a later release, which this one does not know, where its workers will find it."""
    for job in ("of.tomorrow", "payment.sync", "upload.normalise", "credits.expire"):
        await pipeline.move("select app.add_task(%s, '{}', p_delay_seconds => 0)", (job,))
    async with relay(pipeline) as sender:
        await sender.tick()
    sent = {queue: len(pipeline.queued_jobs(queue)) for queue in Queue}
    used = (Queue.DEFAULT, Queue.STRIPE, Queue.PIXELS, Queue.BACKGROUND)
    assert {queue for queue, count in sent.items() if count == 1} == set(used)
    assert sum(sent.values()) == 4


async def test_a_whole_worker_in_one_process(open_pipeline: OpenPipeline) -> None:
    """RQ threads, relay, loops and webhooks together: from the request to the image."""
    async with open_pipeline(relay_tick_seconds=0.1, dispatch_tick_seconds=0.1) as pipeline:
        ada = await pipeline.person()
        settings = pipeline.ctx.settings
        runtime = runner.Runtime(pipeline.ctx, asyncio.get_running_loop())
        threads = WorkerThreads(settings, QUEUES, slots=runtime.slots, hand_over=runtime.hand_over)
        connection = open_redis(settings)
        running = loops.start(
            pipeline.ctx,
            relay=Relay(pipeline.ctx, connection),
            heartbeat=Heartbeat(pipeline.ctx),
            ensure_threads=threads.ensure_running,
        )
        try:
            answers = await asyncio.gather(*(ada.create("cutout", wait=25) for _ in range(3)))
            with wakeups.connect_redis(settings) as reader:
                workers = await asyncio.to_thread(rq.Worker.all, connection=reader)
            assert len(workers) == len(QUEUES), "listed by rq's own tools"
        finally:
            threads.stop()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            assert await asyncio.to_thread(threads.join, timeout_seconds=10)
            await connection.aclose()
        assert [answer.json()["state"] for answer in answers] == ["succeeded"] * 3
        assert pipeline.balance(ada) == (7, 0)
        assert [job for job in pipeline.jobs() if job.startswith("provider_call")] == []
        assert len(await pipeline.paid_calls()) == 3


async def test_a_job_in_redis_names_only_a_row(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await ada.start()
    (task,) = pipeline.tasks()
    await pipeline.until_woken()
    connection = redis.asyncio.Redis.from_url(pipeline.ctx.settings.redis_url.get_secret_value())
    job = await connection.hgetall(f"rq:job:{task['id']}-0")
    await connection.aclose()
    with wakeups.connect_redis(pipeline.ctx.settings) as reader:
        found = rq.job.Job.fetch(
            f"{task['id']}-0", connection=reader, serializer=rq.serializers.JSONSerializer
        )
        assert (found.func_name, found.args, found.kwargs) == (
            wakeups.RUN_FUNCTION,
            [str(task["id"])],
            {},
        )
    assert str(ada.id) not in str(job)
