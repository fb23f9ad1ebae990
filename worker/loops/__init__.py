"""The loops of a worker process, one file a duty. Every process runs all of them; rows are shared
by skip locked."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import structlog

from core.generations.pipeline import dispatch, lines, poll, sweep
from core.generations.providers import accounts
from worker.context import WorkerContext
from worker.loops.figures import flush_figures
from worker.loops.heartbeat import Heartbeat
from worker.loops.relay import Relay
from worker.loops.schedules import issue_schedules

log = structlog.get_logger()

Round = Callable[[], Awaitable[object]]

_ERROR_PAUSE_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0
_SCHEDULE_SECONDS = 10.0
_FIGURES_SECONDS = 5.0
_KEYS_SECONDS = 60.0
_THREADS_SECONDS = 2.0
# A round that takes longer hangs. The longest, a sweep, stops by itself long before.
_ROUND_SECONDS_MAX = 120.0


async def repeat(
    name: str,
    tick: Round,
    *,
    every_seconds: float,
    wake: asyncio.Event | None = None,
    seconds_max: float = _ROUND_SECONDS_MAX,
) -> None:
    """Runs `tick` for ever, at once when `wake` is set. An error pauses the loop, never ends it;
    nor does a round that hangs, or a cancellation that nobody asked for."""
    while True:
        try:
            async with asyncio.timeout(seconds_max):
                await tick()
        except (Exception, asyncio.CancelledError):  # the process's edge: another round tries
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                raise
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


async def _hold_keys(ctx: WorkerContext) -> None:
    await ctx.db.run(lambda conn: accounts.hold_keys(conn, ctx.providers))


def start(
    ctx: WorkerContext, *, relay: Relay, heartbeat: Heartbeat, ensure_threads: Callable[[], int]
) -> list["asyncio.Task[None]"]:
    """All loops of the process as tasks."""
    settings = ctx.settings

    async def threads() -> None:
        if (started := ensure_threads()) > 0:
            log.info("rq.threads_started", count=started)

    plan: list[tuple[str, Round, float, asyncio.Event | None]] = [
        ("threads", threads, _THREADS_SECONDS, None),
        ("relay", relay.tick, settings.relay_tick_seconds, None),
        ("sweep", lambda: sweep.sweep(ctx), settings.sweep_tick_seconds, None),
        ("schedules", lambda: issue_schedules(ctx), _SCHEDULE_SECONDS, None),
        ("heartbeat", heartbeat.tick, _HEARTBEAT_SECONDS, None),
        ("figures", lambda: flush_figures(ctx), _FIGURES_SECONDS, None),
        ("outlook", lambda: lines.refresh(ctx), lines.REFRESH_SECONDS, None),
        ("keys", lambda: _hold_keys(ctx), _KEYS_SECONDS, None),
        (
            "dispatch",
            lambda: dispatch.dispatch_waiting(ctx),
            settings.dispatch_tick_seconds,
            ctx.dispatch_wanted,
        ),
    ]
    if settings.provider_polling:
        plan.append(("poll", lambda: poll.poll_due(ctx), settings.poll_tick_seconds, None))
    return [
        asyncio.create_task(
            repeat(name, tick, every_seconds=seconds, wake=wake), name=f"loop {name}"
        )
        for name, tick, seconds, wake in plan
    ]
