"""HEAD is GET without the body (RFC 9110, 9.3.2): the same route, status and headers."""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send


class Head:
    """Routes know GET only. They are told that the client left once the headers are out, which ends
    a stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] not in {"HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await self._app(scope, receive, _with_head_allowed(send))
            return
        answer = _Headers(receive, send)
        scope["method"] = "GET"
        try:
            await self._app(scope, answer.receive, answer.send)
        finally:
            scope["method"] = "HEAD"


class _Headers:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_out = False

    async def receive(self) -> HTTPReceiveMessage:
        if self._is_out:
            return {"type": "http.disconnect"}
        message: HTTPReceiveMessage = await self._receive()  # type: ignore[assignment]  # only HTTP comes here
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
        elif not self._is_out:
            self._is_out = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await asyncio.sleep(0)  # a stream that never waits would not hear that it has ended


def allowing_head(methods: str) -> str:
    """The value of an Allow header."""
    names = [name.strip() for name in methods.split(",")]
    return ", ".join(sorted({*names, "HEAD"})) if "GET" in names else methods


def _with_head_allowed(send: Send) -> Send:
    async def send_with_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                (name, allowing_head(value.decode()).encode() if name == b"allow" else value)
                for name, value in message.get("headers", ())
            ]
        await send(message)

    return send_with_head
