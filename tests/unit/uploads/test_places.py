"""Who may have how many uploads in hand, and where their bytes are meanwhile."""

import asyncio
import uuid

import pytest

from core.errors import QuotaError, TemporarilyUnavailableError
from core.uploads.places import UploadPlaces
from core.uploads.sent import MEMORY_BYTES_MAX, SentBytes

ADA, BOB, CYD = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()


async def _holding(places: UploadPlaces, whom: uuid.UUID, until: asyncio.Event) -> None:
    async with places.hold(whom):
        await until.wait()


async def test_the_next_of_a_person_waits_for_a_place_of_theirs() -> None:
    places = UploadPlaces(together=10, each=2)
    ends = [asyncio.Event() for _ in range(3)]
    tasks = [asyncio.create_task(_holding(places, ADA, end)) for end in ends]
    await asyncio.sleep(0)
    async with asyncio.timeout(1), places.hold(BOB):
        pass
    ends[0].set()
    await tasks[0]
    ends[2].set()
    await asyncio.wait_for(tasks[2], 1)
    ends[1].set()
    await tasks[1]
    async with places.hold(ADA), places.hold(ADA):
        pass


async def test_many_that_wait_are_refused_at_once() -> None:
    places = UploadPlaces(together=100, each=2)
    end = asyncio.Event()
    tasks = [asyncio.create_task(_holding(places, ADA, end)) for _ in range(34)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = [task.exception() for task in tasks if task.done()]
    assert len(refused) == 12
    assert all(isinstance(error, QuotaError) and error.limit == 2 for error in refused)
    end.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_full_process_says_so() -> None:
    places = UploadPlaces(together=3, each=2)
    end = asyncio.Event()
    tasks = [asyncio.create_task(_holding(places, whom, end)) for whom in (ADA, ADA, BOB)]
    await asyncio.sleep(0)
    with pytest.raises(TemporarilyUnavailableError):
        async with places.hold(CYD):
            pass
    end.set()
    await asyncio.gather(*tasks)
    async with places.hold(CYD):
        pass


async def test_who_gives_up_while_waiting_leaves_nothing_behind() -> None:
    places = UploadPlaces(together=10, each=1)
    end = asyncio.Event()
    first = asyncio.create_task(_holding(places, ADA, end))
    await asyncio.sleep(0)
    second = asyncio.create_task(_holding(places, ADA, end))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    end.set()
    await first
    async with asyncio.timeout(1), places.hold(ADA):
        pass


@pytest.mark.parametrize("size", [10, MEMORY_BYTES_MAX, 3 * MEMORY_BYTES_MAX + 7])
async def test_bytes_come_back_as_they_were_sent(size: int) -> None:
    sent, data = SentBytes(), bytes(range(256)) * (size // 256 + 1)
    for start in range(0, len(data), 50_000):
        sent.write(data[start : start + 50_000])
        await sent.make_room()
    await sent.end()
    for _ in range(2):
        assert sent.read() == data
    assert isinstance(sent.content, bytes) == (size < MEMORY_BYTES_MAX)
    assert sent.size_bytes == len(data)
    sent.close()
