"""One worker process: one event loop with one pool and one HTTP client, RQ threads, the loops."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import httpx
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from core import keepalive
from core.changes import ChangePublisher
from core.db import Database
from core.generations.providers import accounts
from core.generations.providers.registry import open_providers
from core.nouns import queue_of
from core.payments.stripe.client import StripeClient
from core.payments.stripe.wire import LOOK
from core.pixels.pool import open_pools
from core.settings import Settings, SettingsError
from core.storage.supabase import SupabaseStorage
from core.tasks.wakeups import TaskQueue
from worker import loops, runner
from worker.context import WorkerContext
from worker.loops.figures import flush_figures
from worker.loops.heartbeat import Heartbeat
from worker.loops.relay import Relay
from worker.registry import QUEUES
from worker.rq_threads import WorkerThreads

log = structlog.get_logger()

# Far above what slots, places and accounts allow at once: whoever had to wait for a connection
# would wait for somebody else's server. Calls in flight at the provider hold none.
_HTTP_CONNECTIONS = 1_000


@contextlib.asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[WorkerContext]:
    """The tools of a process, opened in order and closed in reverse."""
    if settings.worker_database_url is None:
        raise SettingsError("settings: WORKER_DATABASE_URL: required by a worker")
    async with contextlib.AsyncExitStack() as stack:
        queue = TaskQueue(settings, queue_of)
        stack.push_async_callback(queue.close)
        db = Database(
            settings.worker_database_url.get_secret_value(),
            pool_size=settings.database_pool_size,
            name="worker",
            wake=queue.wake,
        )
        stack.push_async_callback(db.close)
        await db.open()
        connection = open_redis(settings)
        stack.push_async_callback(connection.aclose)
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                limits=httpx.Limits(
                    max_connections=_HTTP_CONNECTIONS, max_keepalive_connections=50
                ),
                timeout=httpx.Timeout(30, connect=5),
            )
        )
        pixels = open_pools(
            deliveries=settings.worker_pixel_processes,
            photos=settings.worker_photo_processes,
            large_photos=settings.worker_large_photo_processes,
        )
        stack.push_async_callback(pixels.close)
        payments = (
            None if settings.stripe_secret_key is None else StripeClient(settings, patience=LOOK)
        )
        if payments is not None:
            stack.push_async_callback(payments.close)
        yield WorkerContext(
            settings=settings,
            db=db,
            queue=queue,
            changes=ChangePublisher(settings, connection),
            http=http,
            providers=open_providers(settings, http),
            storage=SupabaseStorage(settings, http),
            pixels=pixels,
            payments=payments,
        )


def open_redis(settings: Settings) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(
        settings.redis_url.get_secret_value(),
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=1,
        socket_timeout=1,
        **keepalive.REDIS,
    )


async def _register_keys(ctx: WorkerContext) -> None:
    """Only keys of this environment open calls here; a process without keys runs other jobs."""
    if not accounts.fingerprints_of(ctx.providers):
        log.warning("provider.no_keys", hint="set FAL_AI_KEY_1; generations will wait")
        return
    slots = ctx.settings.provider_account_slots
    await ctx.db.run(lambda conn: accounts.register_keys(conn, ctx.providers, slots=slots))


async def run_process(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT; then finishes or releases what it holds."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_context(settings) as ctx:
        await _register_keys(ctx)
        relay_connection = open_redis(settings)
        runtime = runner.Runtime(ctx, loop)
        threads = WorkerThreads(settings, QUEUES, slots=runtime.slots, hand_over=runtime.hand_over)
        heartbeat = Heartbeat(ctx)
        running = loops.start(
            ctx,
            relay=Relay(ctx, relay_connection),
            heartbeat=heartbeat,
            ensure_threads=threads.ensure_running,
        )
        log.info(
            "worker.started",
            queues=[str(queue) for queue in QUEUES],
            keys=len(accounts.fingerprints_of(ctx.providers)),
        )
        await stop.wait()
        log.info("worker.stopping")
        await _shut_down(ctx, threads, running, heartbeat)
        await relay_connection.aclose()
    log.info("worker.stopped")


async def _shut_down(
    ctx: WorkerContext,
    threads: WorkerThreads,
    running: list["asyncio.Task[None]"],
    heartbeat: Heartbeat,
) -> None:
    """Waits within the grace period; what has not ended by then is found when its lease ends."""
    grace = ctx.settings.shutdown_grace_seconds
    threads.stop()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    ended = await asyncio.to_thread(threads.join, timeout_seconds=grace * 0.6)
    await ctx.wait_for_background(timeout_seconds=grace * 0.3)
    if not ended or ctx.background_count:
        log.warning("worker.left_work_to_its_lease", in_background=ctx.background_count)
    with contextlib.suppress(Exception):  # the database may be the reason for the stop
        await flush_figures(ctx)
        await heartbeat.leave()
