"""Processes for pixels: decoding holds the GIL's thread for 100 ms and hundreds of megabytes.

Worker only, never the API. Each slot is an executor of one process, so that a crash of a decoder
loses no other picture, and so that no more inputs are in memory than processes.
"""

import asyncio
import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable
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
# The slowest valid input, a cut-out of 50 MP, measured 10 s on a busy machine.
_SECONDS: Final = 60


class _Slot:
    """One process, started at its first task and replaced after its last one or a crash."""

    def __init__(self, memory_bytes: int, tasks_max: int) -> None:
        self._memory_bytes = memory_bytes
        self._tasks_max = tasks_max
        self._tasks = 0
        self._executor: ProcessPoolExecutor | None = None

    def executor(self) -> ProcessPoolExecutor:
        if self._executor is None or self._tasks >= self._tasks_max:
            self.retire()
            self._executor = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_prepare,
                initargs=(self._memory_bytes,),
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


class PixelPool:
    """`await pool.run(normalise, data)` from any coroutine of one event loop."""

    def __init__(
        self,
        processes: int,
        *,
        seconds: int = _SECONDS,
        memory_bytes: int = _MEMORY_BYTES,
        tasks_per_process: int = _TASKS_PER_PROCESS,
    ) -> None:
        assert processes >= 1
        self._seconds = seconds
        self._slots = [_Slot(memory_bytes, tasks_per_process) for _ in range(processes)]
        self._free: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in self._slots:
            self._free.put_nowait(slot)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result or its own exception, both pickled.

        Raises: RetryableError when the process crashed, ran out of memory or out of time.
        """
        slot = await self._free.get()
        try:
            future = slot.executor().submit(_timed, self._seconds, function, args, kwargs)
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            slot.retire()
            raise
        except BrokenProcessPool as error:
            slot.retire()
            raise RetryableError("pixel_process_died") from error
        except MemoryError as error:
            slot.retire()
            raise RetryableError("pixel_process_out_of_memory") from error
        finally:
            self._free.put_nowait(slot)

    async def close(self) -> None:
        """Wait for running tasks and end the processes."""
        await asyncio.gather(*(asyncio.to_thread(slot.close) for slot in self._slots))


def _prepare(memory_bytes: int) -> None:
    """In the child: ignores signals that are for its parent, and limits its memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform == "linux":  # elsewhere the limit is not enforced, or refused
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.RLIM_INFINITY))


def _timed(
    seconds: int, function: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]
) -> R:
    # The default action of SIGALRM ends the process even inside a codec's C code, where no
    # Python handler would run; the parent sees a broken pool.
    signal.alarm(seconds)
    try:
        return function(*args, **kwargs)
    finally:
        signal.alarm(0)
