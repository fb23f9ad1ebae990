"""A worker's tools without a pipeline: what the runner itself needs."""

import contextlib
from collections.abc import AsyncIterator

import httpx

from core.db import Database
from core.pixels.pool import PixelPool
from core.settings import Settings
from tests.harness.worker import open_worker_context
from worker.context import WorkerContext


@contextlib.asynccontextmanager
async def open_context(settings: Settings, db: Database) -> AsyncIterator[WorkerContext]:
    async with (
        httpx.AsyncClient() as http,
        open_worker_context(settings, db=db, http=http, pixels=PixelPool(1)) as ctx,
    ):
        yield ctx
