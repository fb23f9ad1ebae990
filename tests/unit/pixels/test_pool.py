import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest

from core.errors import RetryableError
from core.pixels.errors import UnsupportedMediaError
from core.pixels.normalise import normalise
from core.pixels.outputs import verify_output
from core.pixels.pool import PixelPool, open_pools
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


def _calculate_for_ever() -> None:
    while True:
        pass


async def test_what_takes_all_its_cpu_is_ended_and_what_has_to_wait_for_it_is_not() -> None:
    """A photo that leaves the CPU to deliveries for a minute is not at fault."""
    pool = PixelPool(1, seconds=1)
    await pool.run(time.sleep, 2)
    started = time.monotonic()
    with pytest.raises(RetryableError):
        await pool.run(_calculate_for_ever)
    assert time.monotonic() - started < 10
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


async def test_who_has_much_to_do_is_served_in_turn_with_others() -> None:
    """First come, first served let one person's photos wait behind all of another's."""
    pool = PixelPool(1)
    served: list[str] = []

    async def run(whom: str, *, seconds: float) -> None:
        await pool.run_for(whom, time.sleep, seconds)
        served.append(whom)

    waiting = [asyncio.create_task(run("ada", seconds=0.01)) for _ in range(4)]
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(run("bob", seconds=0.01)) for _ in range(2)]
    given_up = asyncio.create_task(run("cyd", seconds=0.01))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(*waiting)
    await pool.close()
    assert served == ["ada", "ada", "bob", "ada", "bob", "ada"]


async def test_photos_leave_the_cpu_to_deliveries() -> None:
    pools = open_pools(deliveries=1, photos=1, large_photos=1)
    each = (pools.deliveries, pools.photos, pools.large_photos)
    own = os.nice(0)
    assert [await pool.run(os.nice, 0) - own for pool in each] == [0, 3, 10]
    await pools.close()


async def test_deliveries_begin_while_all_photos_are_in_work() -> None:
    pools = open_pools(deliveries=1, photos=1, large_photos=1)
    photos = (pools.photos, pools.large_photos)
    busy = [asyncio.create_task(pool.run(time.sleep, 30)) for pool in photos for _ in range(8)]
    await asyncio.sleep(0)
    assert await pools.deliveries.run(len, b"abc") == 3
    assert not any(task.done() for task in busy)
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    await pools.close()


async def test_tasks_share_the_processes() -> None:
    pool = PixelPool(2)
    pids = await asyncio.gather(*(pool.run(os.getpid) for _ in range(8)))
    assert 1 <= len(set(pids)) <= 2
    assert await asyncio.gather(*(pool.run(pow, base, 2) for base in range(6))) == [
        0, 1, 4, 9, 16, 25,
    ]  # fmt: skip
    await pool.close()
