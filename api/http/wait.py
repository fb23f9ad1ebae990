"""A wait within a request, for what a worker does: `Prefer: wait=n` (RFC 7240).

    async def get_thing(user: CurrentUser, db: Db, wait: AskedWait, ...) -> ThingView:
        thing = await wait.until(lambda thing: thing.is_settled, lambda: read_thing(db, user))
        wait.add_headers(is_settled=thing.is_settled)

Each read is a short transaction of its own, and between reads nothing is held.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias, TypeVar

from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency, Provide
from litestar.params import HeaderParameter, SkipValidation

from api.identity import AnyRequest, RequestContext, context_of

READ_SECONDS = 0.2
RETRY_AFTER_SECONDS = 2
WAIT_SECONDS_MAX = 25
WAIT_HEADERS = [
    ResponseHeader(
        name="Preference-Applied", description="The wait that was kept.", documentation_only=True
    ),
    ResponseHeader(
        name="Retry-After",
        description="Seconds until asking again is worth it, while it is not settled.",
        documentation_only=True,
    ),
]
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)

Found = TypeVar("Found")


async def _pause(seconds: float) -> None:
    await asyncio.sleep(min(READ_SECONDS, seconds))


class Wait:
    """The wait that a request asks for; `seconds` is 0 where it asks for none."""

    def __init__(self, context: RequestContext, seconds: int) -> None:
        self._context = context
        self.seconds = seconds

    async def until(
        self,
        is_settled: Callable[[Found], bool],
        read: Callable[[], Awaitable[Found]],
        *,
        pause: Callable[[float], Awaitable[None]] = _pause,
    ) -> Found:
        """What `read` finds once it is settled, or when the time is over; it is read once at least.

        `pause` returns when it is time to read again, after `seconds` at the latest.
        """
        end = time.monotonic() + self.seconds
        while True:
            found = await read()
            left = end - time.monotonic()
            if is_settled(found) or left <= 0:
                return found
            await pause(left)

    def add_headers(self, *, is_settled: bool) -> None:
        """Adds to the answer which wait was applied, and when to read again what is not settled.

        Only for a successful answer: a problem applies no preference.
        """
        headers = self._context.headers
        if self.seconds:
            headers.append((b"preference-applied", b"wait=%d" % self.seconds))
        if not is_settled:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))


async def pause_until_changed(changed: asyncio.Event, seconds: float) -> None:
    """Until the change hub sets `changed`, or for `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
    changed.clear()


def parse_prefer_wait(prefer: str | None) -> int:
    """Seconds of `Prefer: wait=n`, at most 25; 0 without it."""
    found = _WAIT.search(prefer) if prefer else None
    return min(int(found.group(1)), WAIT_SECONDS_MAX) if found else 0


def _provide_wait(
    request: AnyRequest,
    prefer: Annotated[
        str | None,
        HeaderParameter(
            name="Prefer", description="`wait=n`: answer after at most n ≤ 25 s (RFC 7240)."
        ),
    ] = None,
) -> Wait:
    return Wait(context_of(request), parse_prefer_wait(prefer))


AskedWait: TypeAlias = NamedDependency[SkipValidation[Wait]]  # wait
DEPENDENCIES = {"wait": Provide(_provide_wait, sync_to_thread=False)}
