import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest

from core.errors import RetryableError
from core.pixels.errors import UnsupportedMediaError
from core.pixels.normalise import normalise
from core.pixels.outputs import verify_output
from core.pixels.pool import PixelPool
from core.pixels.types import OutputRuleError
from tests.unit.pixels import images


@pytest.fixture
async def pool() -> AsyncIterator[PixelPool]:
    made = PixelPool(1, seconds=10)
    yield made
    await made.close()


async def test_results_and_errors_come_back(pool: PixelPool) -> None:
    data = images.encode(images.photo(), "jpeg")
    assert (await pool.run(normalise, data)) == normalise(data)
    with pytest.raises(UnsupportedMediaError) as caught:
        await pool.run(normalise, b"")
    assert caught.value.reason == "empty_file"
    with pytest.raises(OutputRuleError) as refused:
        await pool.run(verify_output, b"nonsense", max_bytes=100)
    assert refused.value.reason == "wrong_type"


async def test_a_dead_process_is_replaced(pool: PixelPool) -> None:
    first = await pool.run(os.getpid)
    with pytest.raises(RetryableError):
        await pool.run(os._exit, 3)
    second = await pool.run(os.getpid)
    assert len({first, second, os.getpid()}) == 3


async def test_endless_work_is_ended() -> None:
    pool = PixelPool(1, seconds=1)
    started = time.monotonic()
    with pytest.raises(RetryableError):
        await pool.run(time.sleep, 60)
    assert time.monotonic() - started < 20
    await pool.close()


async def test_memory_has_an_end(pool: PixelPool) -> None:
    with pytest.raises(RetryableError):
        await pool.run(bytes, 8 * 1024**3)
    assert await pool.run(len, b"abc") == 3


async def test_cancelling_a_caller_frees_its_slot(pool: PixelPool) -> None:
    await pool.run(os.getpid)
    task = asyncio.create_task(pool.run(time.sleep, 60))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await pool.run(len, b"ab") == 2


async def test_processes_are_renewed() -> None:
    pool = PixelPool(1, tasks_per_process=2)
    pids = [await pool.run(os.getpid) for _ in range(4)]
    await pool.close()
    assert pids[0] == pids[1] != pids[2] == pids[3]


async def test_tasks_share_the_processes() -> None:
    pool = PixelPool(2)
    pids = await asyncio.gather(*(pool.run(os.getpid) for _ in range(8)))
    assert 1 <= len(set(pids)) <= 2
    assert await asyncio.gather(*(pool.run(pow, base, 2) for base in range(6))) == [
        0, 1, 4, 9, 16, 25,
    ]  # fmt: skip
    await pool.close()
