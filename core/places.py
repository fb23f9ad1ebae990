"""Places in one process: how much of one kind it does at once, and how much of that for one."""

import contextlib
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator
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


class Shares:
    """Places that are shared: each key holds a few of them at most, and all together the rest.

    Used on one event loop, so no lock is needed.
    """

    def __init__(self, *, each: int, together: int) -> None:
        assert 1 <= each <= together
        self._each = each
        self._together = together
        self._held: Counter[uuid.UUID] = Counter()

    def is_free(self, key: uuid.UUID) -> bool:
        return self._held[key] < self._each and self._held.total() < self._together

    @contextlib.contextmanager
    def hold(self, key: uuid.UUID) -> Iterator[None]:
        """Whoever holds asks `is_free` first."""
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
