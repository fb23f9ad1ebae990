"""Places in one process: how much of one kind it does at once, and how much of that for one."""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from core.errors import FailureKind, RetryableError

Answer = TypeVar("Answer")

# Most answers of a vendor are there by then. Those that are not hold one of the places for such.
QUICK_SECONDS = 1.0
_TURN_PAUSE_SECONDS = 5.0


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


class OverShareError(RetryableError):
    """Others of the same key are slow, and hold its share. It says nothing about this one."""

    def __init__(self) -> None:
        super().__init__(
            "others of its owner are slow",
            kind=FailureKind.ABSENT,
            retry_after_seconds=_TURN_PAUSE_SECONDS,
        )


async def within_share(
    shares: Shares, key: uuid.UUID, asking: Coroutine[Any, Any, Answer]
) -> Answer:
    """The answer of a vendor; one that takes long needs a place in its key's share.

    Raises: OverShareError, and what `asking` raises.
    """
    answer = asyncio.ensure_future(asking)
    try:
        await asyncio.wait({answer}, timeout=QUICK_SECONDS)
        if answer.done():
            return answer.result()
        if not shares.is_free(key):
            raise OverShareError
        with shares.hold(key):
            return await answer
    finally:
        if not answer.done():
            answer.cancel()
            await asyncio.wait({answer})
