"""Places in one process: how much of one kind it does at once."""

from collections.abc import Coroutine
from typing import Any


class Places:
    """Used on one event loop, so no lock is needed. Whoever starts work asks `free` first."""

    def __init__(self, count: int) -> None:
        self._free = count

    @property
    def free(self) -> int:
        return max(0, self._free)

    def hold(self, work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """`work`, which takes its place now and leaves it at its end, whatever that is."""
        self._free -= 1
        return self._until_end(work)

    async def _until_end(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._free += 1
