"""How many uploads a process of the API has in hand, all together and of one person.

An upload is in hand from the first byte of its body until it is stored. Bodies are on disk, but
each has a connection, a file and a request to the store; and one person's must not be all of them.
"""

import asyncio
import contextlib
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from typing import Final

from core.errors import QuotaError, TemporarilyUnavailableError
from core.uploads.errors import UploadReason

# A browser or a program sends several photos at once: those beyond the bound wait a moment, with
# their bodies unread.
_WAITING_MAX: Final = 20
_WAIT_SECONDS: Final = 5.0
# A file is read as a whole where it is checked, which takes some 40 ms of CPU for the largest.
_CHECKS_AT_ONCE: Final = 2


class UploadPlaces:
    """Used on one event loop."""

    def __init__(self, *, together: int, each: int) -> None:
        self._together = together
        self._each = each
        self._held: Counter[uuid.UUID] = Counter()
        self._waiting: defaultdict[uuid.UUID, deque[asyncio.Future[None]]] = defaultdict(deque)
        self.checking = asyncio.Semaphore(_CHECKS_AT_ONCE)
        """Held while a file is in memory as a whole."""

    @contextlib.asynccontextmanager
    async def hold(self, user_id: uuid.UUID) -> AsyncIterator[None]:
        """Raises: TemporarilyUnavailableError (the process is full), QuotaError (the person's
        places are taken)."""
        await self._take(user_id)
        try:
            yield
        finally:
            self._leave(user_id)

    async def _take(self, user_id: uuid.UUID) -> None:
        if self._held.total() >= self._together:
            raise TemporarilyUnavailableError(what="uploads")
        if self._held[user_id] < self._each:
            self._held[user_id] += 1
            return
        waiting = self._waiting[user_id]
        if len(waiting) >= _WAITING_MAX:
            raise self._refusal()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await turn
        except TimeoutError:
            self._give_up(user_id, turn)
            raise self._refusal() from None
        except asyncio.CancelledError:
            self._give_up(user_id, turn)
            raise

    def _refusal(self) -> QuotaError:
        seconds = round(_WAIT_SECONDS)
        return QuotaError(
            reason=UploadReason.UPLOADS_IN_HAND, limit=self._each, retry_after_seconds=seconds
        )

    def _give_up(self, user_id: uuid.UUID, turn: "asyncio.Future[None]") -> None:
        if turn.done() and not turn.cancelled():
            self._leave(user_id)
            return
        waiting = self._waiting[user_id]
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            del self._waiting[user_id]

    def _leave(self, user_id: uuid.UUID) -> None:
        """The place goes to the person's next one that waits, or is free."""
        waiting = self._waiting.get(user_id)
        while waiting:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[user_id]
            if not turn.done():
                turn.set_result(None)
                return
        self._held[user_id] -= 1
        if not self._held[user_id]:
            del self._held[user_id]
