"""A pipeline for each test: its own database, provider and storage. See `pipeline`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.pixels.pool import PixelPool
from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.harness.pipeline_setup import pipeline_settings, set_up_pipeline

OpenPipeline = Callable[..., "contextlib.AbstractAsyncContextManager[PipelineHarness]"]


@pytest.fixture(scope="session")
def pixels() -> Iterator[PixelPool]:
    """One process for all tests: starting it is the slow part."""
    pool = PixelPool(1)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def open_pipeline(
    database: TestDatabase,
    make_settings: Callable[..., Settings],
    pixels: PixelPool,
    tmp_path: Path,
) -> OpenPipeline:
    """Keyword arguments are settings; `api` replaces some of them for the API alone."""

    @contextlib.asynccontextmanager
    async def open_it(
        *, api: dict[str, Any] | None = None, prerendered: bool = True, **settings: Any
    ) -> AsyncIterator[PipelineHarness]:
        ours = make_settings(**(pipeline_settings() | settings))
        async with set_up_pipeline(
            ours, database, pixels, tmp_path, api=api, prerendered=prerendered
        ) as pipeline:
            yield pipeline
            # Not when the test has failed: that is what is to be read then.
            assert pipeline.may_bury or pipeline.dead_letters() == []

    return open_it


@pytest.fixture
async def pipeline(open_pipeline: OpenPipeline) -> AsyncIterator[PipelineHarness]:
    async with open_pipeline() as opened:
        yield opened


@pytest.fixture
async def ada(pipeline: PipelineHarness) -> PhotoOwner:
    return await pipeline.person()


@pytest.fixture
async def bob(pipeline: PipelineHarness) -> PhotoOwner:
    return await pipeline.person()
