"""A loop of a worker goes on, whatever a round of it does; and each alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from core import keepalive
from core.db import Database
from core.settings import Settings
from tests.harness.database import TestDatabase
from worker import loops
from worker.process import open_redis


@contextlib.asynccontextmanager
async def _looping(
    tick: Callable[[], Awaitable[object]], *, seconds_max: float = 60
) -> AsyncIterator[None]:
    loop = asyncio.create_task(
        loops.repeat("toys", tick, every_seconds=0.01, seconds_max=seconds_max)
    )
    try:
        yield
        assert not loop.done()
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        assert loop.cancelled(), "who asks it to end is obeyed"


@pytest.mark.parametrize(
    "error", [RuntimeError("toy"), asyncio.CancelledError(), TimeoutError(), OSError("toy")]
)
async def test_a_round_that_fails_ends_no_loop(error: BaseException) -> None:
    """A library may raise a cancellation that nobody asked for; it ended the loop for good."""
    rounds = 0
    second = asyncio.Event()

    async def tick() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise error
        second.set()

    with capture_logs() as lines:
        async with _looping(tick), asyncio.timeout(10):
            await second.wait()
    assert [line["event"] for line in lines] == ["loop.error"]


async def test_a_round_that_hangs_ends_no_loop() -> None:
    rounds = 0
    second = asyncio.Event()

    async def tick() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            await asyncio.Event().wait()
        second.set()

    async with _looping(tick, seconds_max=0.05), asyncio.timeout(10):
        await second.wait()


async def test_a_peer_that_vanished_is_noticed(settings: Settings, database: TestDatabase) -> None:
    """What is asked of the system for each connection; no test can pull a cable."""
    db = Database(database.url("jewelshot_worker"), pool_size=1, name="test")
    await db.open()
    try:
        async with db.transaction() as conn:
            asked = conninfo_to_dict(conn.info.dsn)
    finally:
        await db.close()
    assert {name: int(str(asked[name])) for name in keepalive.DATABASE} == keepalive.DATABASE
    connection = open_redis(settings)
    options = connection.connection_pool.connection_kwargs
    await connection.aclose()
    assert options["socket_keepalive"]
    assert options["socket_keepalive_options"]
