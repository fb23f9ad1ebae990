"""A worker's tools without a pipeline: what the runner itself needs."""

import contextlib
from collections.abc import AsyncIterator

import httpx
import redis.asyncio

from core.changes import ChangePublisher
from core.db import Database
from core.generations.providers.registry import open_providers
from core.pixels.pool import PixelPool
from core.settings import Settings
from core.storage.supabase import SupabaseStorage
from core.tasks.wakeups import TaskQueue
from worker.context import WorkerContext


@contextlib.asynccontextmanager
async def open_context(settings: Settings, db: Database) -> AsyncIterator[WorkerContext]:
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient())
        connection = redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value())
        stack.push_async_callback(connection.aclose)
        queue = TaskQueue(settings)
        stack.push_async_callback(queue.close)
        yield WorkerContext(
            settings=settings,
            db=db,
            queue=queue,
            changes=ChangePublisher(settings, connection),
            http=http,
            providers=open_providers(settings, http),
            storage=SupabaseStorage(settings, http),
            pixels=PixelPool(1),
        )
