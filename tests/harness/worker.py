"""The tools of a worker, made for a test: nothing dequeues, and no loop runs."""

import contextlib
from collections.abc import AsyncIterator

import httpx
import redis.asyncio

from core.changes import ChangePublisher
from core.db import Database
from core.generations.providers.registry import open_providers
from core.nouns import queue_of
from core.payments.stripe.client import StripeClient
from core.pixels.pool import PixelPool, PixelPools
from core.settings import Settings
from core.storage.supabase import SupabaseStorage
from core.tasks.wakeups import TaskQueue
from worker.context import WorkerContext


@contextlib.asynccontextmanager
async def open_worker_context(
    settings: Settings,
    *,
    db: Database,
    http: httpx.AsyncClient,
    pixels: PixelPool,
    payments: StripeClient | None = None,
) -> AsyncIterator[WorkerContext]:
    """`db` signs in as the worker; it and the others stay open for their owners to close.
    `pixels` does every kind of work: starting a process is the slow part."""
    async with contextlib.AsyncExitStack() as stack:
        connection = redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value())
        stack.push_async_callback(connection.aclose)
        queue = TaskQueue(settings, queue_of)
        stack.push_async_callback(queue.close)
        yield WorkerContext(
            settings=settings,
            db=db,
            queue=queue,
            changes=ChangePublisher(settings, connection),
            http=http,
            providers=open_providers(settings, http),
            storage=SupabaseStorage(settings, http),
            pixels=PixelPools(deliveries=pixels, photos=pixels, large_photos=pixels),
            payments=payments,
        )
