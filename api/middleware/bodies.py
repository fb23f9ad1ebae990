"""How a request's body comes in: at a pace, and to its end before the answer is sent.

A body that comes too slowly is given up with 408, so that nobody holds a connection, its memory and
its place by sending one byte now and then. Time counts only while we wait for the client.

Most clients read the answer only when they have sent everything. If the server closes before that,
they get a broken connection instead of a 401 for a photo: so what nobody reads is drained.
"""

import asyncio
import contextlib
import math

import msgspec
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send

DRAINED_BYTES_MAX = 128_000_000
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_STATE_KEY = "body"


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long we wait for a body: `seconds` all in all, and as much longer as what has come takes
    at `bytes_per_second`; `pause_seconds` at once, and again after `pause_bytes`."""

    seconds: float
    bytes_per_second: float = math.inf
    pause_seconds: float
    pause_bytes: int


# A line of 0.5 Mbit/s sends the largest photo, of 25 MB, in 400 s.
PHOTO = Pace(seconds=60, bytes_per_second=64_000, pause_seconds=10, pause_bytes=40_000)
# At most 256 KiB.
DOCUMENT = Pace(seconds=20, pause_seconds=10, pause_bytes=40_000)
# Nobody wants it: who sends at full speed is read to the end, and who drips gets the answer.
UNWANTED = Pace(seconds=10, pause_seconds=1, pause_bytes=64_000)


class BodyTooSlowError(HTTPException):
    status_code = 408
    detail = "The body came too slowly"


class Bodies:
    def __init__(
        self, app: ASGIApp, *, document: Pace = DOCUMENT, unwanted: Pace = UNWANTED
    ) -> None:
        self._app = app
        self._document = document
        self._unwanted = unwanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        body = Body(receive, self._document)
        scope["state"][_STATE_KEY] = body

        async def send_after_the_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.is_over:
                await body.drain(self._unwanted)
            await send(message)

        await self._app(scope, body.receive, send_after_the_body)


def expect_photo(scope: Scope) -> None:
    """The body of this request may come as slowly as a photo."""
    body: Body = scope["state"][_STATE_KEY]
    body.expect(PHOTO)


class Body:
    def __init__(self, receive: Receive, pace: Pace) -> None:
        self._receive = receive
        self.is_over = False
        """It was read to its end or given up, or its client has gone."""
        self.size_bytes = 0
        self._waited_seconds = 0.0
        self.expect(pace)

    def expect(self, pace: Pace) -> None:
        """From now on; called before the first byte is read."""
        self._pace = pace
        self._patience_seconds = pace.pause_seconds

    async def receive(self) -> HTTPReceiveMessage:
        if self.is_over:  # what comes now is the client's end, for which there is no hurry
            return await self._receive()  # type: ignore[return-value]  # only HTTP comes here
        loop = asyncio.get_running_loop()
        pace, started = self._pace, loop.time()
        left = pace.seconds + self.size_bytes / pace.bytes_per_second - self._waited_seconds
        try:
            async with asyncio.timeout_at(started + min(left, self._patience_seconds)):
                message: HTTPReceiveMessage = await self._receive()  # type: ignore[assignment]  # only HTTP comes here
        except TimeoutError:
            self.is_over = True
            raise BodyTooSlowError from None
        waited = loop.time() - started
        self._waited_seconds += waited
        if message["type"] == "http.request":
            size_bytes = len(message["body"])
            self.size_bytes += size_bytes
            earned = size_bytes * pace.pause_seconds / pace.pause_bytes
            self._patience_seconds = min(
                pace.pause_seconds, self._patience_seconds - waited + earned
            )
            self.is_over = not message.get("more_body", False)
        else:
            self.is_over = True
        return message

    async def drain(self, pace: Pace) -> None:
        self._waited_seconds = 0.0
        self.expect(pace)
        with contextlib.suppress(BodyTooSlowError):
            while not self.is_over and self.size_bytes < DRAINED_BYTES_MAX:
                await self.receive()
