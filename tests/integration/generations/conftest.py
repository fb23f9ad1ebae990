"""A world for each test: its own database, provider and storage. See `world`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.pixels.pool import PixelPool
from core.settings import Settings
from tests.integration.generations.opening import opened_world, world_settings
from tests.integration.generations.world import Person, World
from tests.support.database import TestDatabase

OpenWorld = Callable[..., "contextlib.AbstractAsyncContextManager[World]"]


@pytest.fixture(scope="session")
def pixels() -> Iterator[PixelPool]:
    """One process for all tests: starting it is the slow part."""
    pool = PixelPool(1)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def open_world(
    database: TestDatabase,
    make_settings: Callable[..., Settings],
    pixels: PixelPool,
    tmp_path: Path,
) -> OpenWorld:
    """Keyword arguments are settings; `api` replaces some of them for the API alone."""

    @contextlib.asynccontextmanager
    async def open_it(
        *, api: dict[str, Any] | None = None, prerendered: bool = True, **settings: Any
    ) -> AsyncIterator[World]:
        ours = make_settings(**(world_settings() | settings))
        async with opened_world(
            ours, database, pixels, tmp_path, api=api, prerendered=prerendered
        ) as world:
            yield world
            # Not when the test has failed: that is what is to be read then.
            assert world.may_bury or world.dead_letters() == []

    return open_it


@pytest.fixture
async def world(open_world: OpenWorld) -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


@pytest.fixture
async def ada(world: World) -> Person:
    return await world.person()


@pytest.fixture
async def bob(world: World) -> Person:
    return await world.person()
