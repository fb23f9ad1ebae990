"""Waiting, within a request, for what a worker finds out."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

READ_SECONDS = 0.2
WAIT_SECONDS_MAX = 25
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)

Found = TypeVar("Found")


def parse_prefer_wait(prefer: str | None) -> int:
    """Seconds of `Prefer: wait=n` (RFC 7240), at most 25; 0 without it."""
    found = _WAIT.search(prefer) if prefer else None
    return min(int(found.group(1)), WAIT_SECONDS_MAX) if found else 0


async def wait_until(
    is_settled: Callable[[Found], bool],
    read: Callable[[], Awaitable[Found]],
    *,
    seconds: float,
) -> Found:
    """What `read` finds once it is settled, or after `seconds`. Between reads nothing is held."""
    until = time.monotonic() + seconds
    while True:
        found = await read()
        left = until - time.monotonic()
        if is_settled(found) or left <= 0:
            return found
        await asyncio.sleep(min(READ_SECONDS, left))
