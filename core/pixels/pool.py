"""Processes for pixels: decoding holds the GIL's thread for 100 ms and hundreds of megabytes.

Worker only, never the API. Each slot is an executor of one process, so that a crash of a decoder
loses no other picture, and so that no more inputs are in memory than processes.

Three kinds of work have processes of their own, so that none waits for another: images that are
paid for, photos of an ordinary size, and photos that cost seconds. The kernel gives the first the
CPU before the second and the second before the third (`nice`): a core that all three want goes
almost wholly to the first.
"""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import resource
import signal
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, ParamSpec, TypeVar

from core.errors import RetryableError

P = ParamSpec("P")
R = TypeVar("R")

# Then a fresh process: memory that codecs and the allocator kept goes back to the system.
_TASKS_PER_PROCESS: Final = 100
# Address space of one process. The largest valid input, a cut-out of 50 MP, measured 1.1 GB.
_MEMORY_BYTES: Final = 3 * 1024**3
# Of CPU. The slowest valid input, a cut-out of 50 MP, measured 10 s.
_SECONDS: Final = 60
# Whoever has to leave the CPU to others takes longer, and is no worse for it.
_WALL_FACTOR: Final = 10
# Linux gives nice 3 a half and nice 10 a tenth of what nice 0 gets on a core that both want
# (sched(7): a step of one is a factor of 1.25).
_PHOTOS_NICE: Final = 3
_LARGE_PHOTOS_NICE: Final = 10
# What a photo of 50 MP leaves in the allocator goes back to the system soon.
_LARGE_TASKS_PER_PROCESS: Final = 10


class _Slot:
    """One process, started at its first task and replaced after its last one or a crash."""

    def __init__(self, memory_bytes: int, tasks_max: int, nice: int) -> None:
        self._memory_bytes = memory_bytes
        self._tasks_max = tasks_max
        self._nice = nice
        self._tasks = 0
        self._executor: ProcessPoolExecutor | None = None

    def executor(self) -> ProcessPoolExecutor:
        if self._executor is None or self._tasks >= self._tasks_max:
            self.retire()
            self._executor = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_prepare,
                initargs=(self._memory_bytes, self._nice),
            )
        self._tasks += 1
        return self._executor

    def retire(self) -> None:
        """Ends the process at once: no caller waits for its result any more."""
        if self._executor is not None:
            # Public only from Python 3.14 on (kill_workers); without it the exit of the whole
            # worker would wait for a task that was cancelled.
            for process in list((self._executor._processes or {}).values()):  # noqa: SLF001  as said
                process.kill()
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor, self._tasks = None, 0

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None


class PixelProcess:
    """One process of a pool, reserved."""

    def __init__(self, slot: _Slot, seconds: int) -> None:
        self._slot = slot
        self._seconds = seconds

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result or its own exception, both pickled.

        Raises: RetryableError when the process crashed, ran out of memory or out of time.
        """
        try:
            future = self._slot.executor().submit(_timed, self._seconds, function, args, kwargs)
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._slot.retire()
            raise
        except BrokenProcessPool as error:
            self._slot.retire()
            raise RetryableError("pixel_process_died") from error
        except MemoryError as error:
            self._slot.retire()
            raise RetryableError("pixel_process_out_of_memory") from error


class PixelPool:
    """`await pool.run(normalise, data)` from any coroutine of one event loop."""

    def __init__(
        self,
        processes: int,
        *,
        nice: int = 0,
        seconds: int = _SECONDS,
        memory_bytes: int = _MEMORY_BYTES,
        tasks_per_process: int = _TASKS_PER_PROCESS,
    ) -> None:
        assert processes >= 1
        self.processes = processes
        self._seconds = seconds
        self._slots = [_Slot(memory_bytes, tasks_per_process, nice) for _ in range(processes)]
        self._free = list(self._slots)
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[_Slot]]] = OrderedDict()

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `run_for`, for nobody in particular."""
        return await self.run_for(None, function, *args, **kwargs)

    async def run_for(
        self, whom: Hashable, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As `reserve`, for one call."""
        async with self.reserve(whom) as process:
            return await process.run(function, *args, **kwargs)

    @contextlib.asynccontextmanager
    async def reserve(self, whom: Hashable = None) -> AsyncIterator[PixelProcess]:
        """A process for the block alone. While all are taken those who wait are served in turn,
        each in the order in which they asked."""
        slot = await self._take(whom)
        try:
            yield PixelProcess(slot, self._seconds)
        finally:
            self._give_back(slot)

    async def _take(self, whom: Hashable) -> _Slot:
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(whom, deque()).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(turn.result())
            raise

    def _give_back(self, slot: _Slot) -> None:
        """To the next in turn; who has more waiting goes to the end."""
        while self._waiting:
            whom, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[whom] = turns
            if not turn.done():
                turn.set_result(slot)
                return
        self._free.append(slot)

    async def close(self) -> None:
        """Wait for running tasks and end the processes."""
        await asyncio.gather(*(asyncio.to_thread(slot.close) for slot in self._slots))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelPools:
    """The processes of one worker, by what they are for."""

    deliveries: PixelPool
    photos: PixelPool
    large_photos: PixelPool

    async def close(self) -> None:
        each = {id(pool): pool for pool in (self.deliveries, self.photos, self.large_photos)}
        await asyncio.gather(*(pool.close() for pool in each.values()))


def open_pools(*, deliveries: int, photos: int, large_photos: int) -> PixelPools:
    """How many processes of each kind. None is started before its first task."""
    return PixelPools(
        deliveries=PixelPool(deliveries),
        photos=PixelPool(photos, nice=_PHOTOS_NICE),
        large_photos=PixelPool(
            large_photos, nice=_LARGE_PHOTOS_NICE, tasks_per_process=_LARGE_TASKS_PER_PROCESS
        ),
    )


def _prepare(memory_bytes: int, nice: int) -> None:
    """In the child: ignores signals that are for its parent, and limits its memory and its CPU."""
    os.nice(nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if sys.platform == "linux":  # elsewhere the limit is not enforced, or refused
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.RLIM_INFINITY))


def _timed(
    seconds: int, function: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]
) -> R:
    # The default action of these signals ends the process even inside a codec's C code, where no
    # Python handler would run; the parent sees a broken pool.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(seconds * _WALL_FACTOR)
    try:
        return function(*args, **kwargs)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
