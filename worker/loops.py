"""The loops of a worker process. Every process runs all of them; rows are shared by skip locked."""

import asyncio
import contextlib
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from core import metrics
from core.db import Connection
from core.generations.pipeline import dispatch, poll, sweep
from core.tasks import outbox
from worker.context import WorkerContext

log = structlog.get_logger()

Round = Callable[[], Awaitable[object]]

_TASKS_AT_ONCE = 200
_ERROR_PAUSE_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0
_SCHEDULE_SECONDS = 10.0
_METRICS_SECONDS = 5.0


async def repeat(
    name: str, tick: Round, *, every_seconds: float, wake: asyncio.Event | None = None
) -> None:
    """Runs `tick` for ever, at once when `wake` is set. An error pauses the loop, never ends it."""
    while True:
        try:
            await tick()
        except Exception:  # the process's edge: the next round tries again
            log.exception("loop.error", loop=name)
            await asyncio.sleep(_ERROR_PAUSE_SECONDS)
        pause = every_seconds * random.uniform(0.9, 1.1)  # noqa: S311  keeps processes apart
        if wake is None:
            await asyncio.sleep(pause)
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await wake.wait()
        wake.clear()


class Relay:
    """Sends what is due, and notices by an epoch key that Redis was flushed."""

    def __init__(self, ctx: WorkerContext, connection: redis.asyncio.Redis) -> None:
        self._ctx = ctx
        self._connection = connection
        self._epoch_key = f"{ctx.settings.redis_prefix}:epoch"

    async def tick(self) -> None:
        try:
            was_flushed = await self._connection.set(self._epoch_key, str(uuid.uuid4()), nx=True)
        except (RedisError, OSError) as error:
            log.warning("relay.redis_away", error=type(error).__name__)
            return
        if was_flushed:
            due = await self._ctx.db.run(outbox.make_all_due)
            log.warning("relay.redis_was_flushed", tasks_made_due=due)
        while True:
            tasks = await self._ctx.db.run(lambda conn: outbox.take_due(conn, limit=_TASKS_AT_ONCE))
            if not await self._ctx.queue.enqueue(*tasks) or len(tasks) < _TASKS_AT_ONCE:
                return


class Heartbeat:
    """Says in the database that this process lives; /readyz counts these rows."""

    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._worker_id = uuid.uuid4()
        self._host = socket.gethostname()

    async def tick(self) -> None:
        await self._ctx.db.run(self._beat)

    async def _beat(self, conn: Connection) -> None:
        await conn.execute(
            "insert into app.worker_heartbeats (worker_id, host, pid, in_flight)"
            " values (%s, %s, %s, %s) on conflict (worker_id) do update"
            " set seen_at = app.now(), in_flight = excluded.in_flight",
            (self._worker_id, self._host, os.getpid(), self._ctx.background_count),
        )

    async def leave(self) -> None:
        await self._ctx.db.run(self._leave)

    async def _leave(self, conn: Connection) -> None:
        await conn.execute(
            "delete from app.worker_heartbeats where worker_id = %s", (self._worker_id,)
        )


async def issue_schedules(ctx: WorkerContext) -> None:
    async def work(conn: Connection) -> None:
        await conn.execute("select app.issue_scheduled_tasks()")

    await ctx.db.run(work)


async def flush_metrics(ctx: WorkerContext) -> None:
    taken = ctx.counters.take()
    if not taken:
        return
    try:
        await ctx.db.run(lambda conn: metrics.flush(conn, taken))
    except BaseException:
        ctx.counters.put_back(taken)
        raise


def start(
    ctx: WorkerContext, *, relay: Relay, heartbeat: Heartbeat, ensure_threads: Callable[[], int]
) -> list["asyncio.Task[None]"]:
    """All loops of the process as tasks."""
    settings = ctx.settings

    async def threads() -> None:
        if (started := ensure_threads()) > 0:
            log.info("rq.threads_started", count=started)

    plan: list[tuple[str, Round, float]] = [
        ("threads", threads, 2.0),
        ("relay", relay.tick, settings.relay_tick_seconds),
        ("sweep", lambda: sweep.sweep(ctx), settings.sweep_tick_seconds),
        ("schedules", lambda: issue_schedules(ctx), _SCHEDULE_SECONDS),
        ("heartbeat", heartbeat.tick, _HEARTBEAT_SECONDS),
        ("metrics", lambda: flush_metrics(ctx), _METRICS_SECONDS),
    ]
    if settings.provider_polling:
        plan.append(("poll", lambda: poll.poll_due(ctx), settings.poll_tick_seconds))
    loops = [
        asyncio.create_task(repeat(name, tick, every_seconds=seconds), name=f"loop {name}")
        for name, tick, seconds in plan
    ]
    loops.append(
        asyncio.create_task(
            repeat(
                "dispatch",
                lambda: dispatch.dispatch_waiting(ctx),
                every_seconds=settings.dispatch_tick_seconds,
                wake=ctx.dispatch_wanted,
            ),
            name="loop dispatch",
        )
    )
    return loops
