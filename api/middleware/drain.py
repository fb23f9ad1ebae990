"""Reads the rest of a request's body before the answer is sent.

Most clients read the answer only when they have sent everything. If the server closes before that,
they get a broken connection instead of a 401 for a photo.
"""

import asyncio
import contextlib

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send

BYTES_MAX = 128_000_000
SECONDS_MAX = 10.0
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class Drain:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        body = _Body(receive)

        async def send_after_the_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.is_read:
                await body.drain()
            await send(message)

        await self._app(scope, body.receive, send_after_the_body)


class _Body:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_read = False
        self.size_bytes = 0

    async def receive(self) -> HTTPReceiveMessage:
        message: HTTPReceiveMessage = await self._receive()  # type: ignore[assignment]  # only HTTP comes here
        if message["type"] == "http.request":
            self.size_bytes += len(message["body"])
            self.is_read = not message.get("more_body", False)
        else:
            self.is_read = True
        return message

    async def drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_MAX):
                while not self.is_read and self.size_bytes < BYTES_MAX:
                    await self.receive()
