"""Several applications behind one HTTP client, and answers that are read while they are made."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import msgspec
from litestar import Litestar


def _origin(request: httpx.Request) -> str:
    port = request.url.port or (443 if request.url.scheme == "https" else 80)
    return f"{request.url.host}:{port}"


@dataclasses.dataclass
class _Failure:
    netloc: str
    prefix: str
    status: int
    times: int

    def hits(self, request: httpx.Request) -> bool:
        if self.times <= 0 or _origin(request) != self.netloc:
            return False
        if not request.url.path.startswith(self.prefix):
            return False
        self.times -= 1
        return True


class HttpRouter(httpx.AsyncBaseTransport):
    """Sends each request to the application that stands for its origin; nothing else exists."""

    def __init__(self) -> None:
        self._wires: dict[str, httpx.AsyncBaseTransport] = {}
        self.refusing: set[str] = set()
        self._failures: list[_Failure] = []
        self._held: str | None = None
        self._let_through: list[str] = []
        self._released = asyncio.Condition()
        self.sent: list[httpx.Request] = []

    def connect(self, origin: str, wire: httpx.AsyncBaseTransport | Litestar) -> None:
        if isinstance(wire, Litestar):
            wire = httpx.ASGITransport(cast("Any", wire))
        self._wires[urlsplit(origin).netloc] = wire

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin = _origin(request)
        wire = self._wires.get(origin)
        if wire is None or origin in self.refusing:
            raise httpx.ConnectError("connection refused", request=request)
        self.sent.append(request)
        async with self._released:
            await self._released.wait_for(lambda: not self._is_held(request.url.path))
        for failure in self._failures:
            if failure.hits(request):
                return httpx.Response(failure.status, request=request)
        return await wire.handle_async_request(request)

    def refuse(self, origin: str) -> None:
        self.refusing.add(urlsplit(origin).netloc)

    def accept(self, origin: str) -> None:
        self.refusing.discard(urlsplit(origin).netloc)

    def hold(self, path: str) -> None:
        """Requests to these paths are under way until they are let through."""
        self._held = path
        self._let_through = []

    async def held(self, path: str) -> None:
        """Until a request to such a path is under way."""
        async with asyncio.timeout(10):
            while not any(  # noqa: ASYNC110  set in many places
                request.url.path.startswith(path) for request in self.sent
            ):
                await asyncio.sleep(0.005)

    async def let_through(self, part: str = "") -> None:
        """Those whose path has `part` in it, now and later."""
        self._let_through.append(part)
        async with self._released:
            self._released.notify_all()

    def _is_held(self, path: str) -> bool:
        if self._held is None or not path.startswith(self._held):
            return False
        return not any(part in path for part in self._let_through)

    def refuse_paths(self, origin: str, prefix: str, *, status: int, times: int) -> None:
        """Answers the next requests to these paths in the application's place."""
        self._failures.append(_Failure(urlsplit(origin).netloc, prefix, status, times))

    def posts_to(self, origin: str, path: str) -> list[httpx.Request]:
        return [
            request
            for request in self.sent
            if request.method == "POST"
            and _origin(request) == urlsplit(origin).netloc
            and request.url.path.startswith(path)
        ]


class Event(msgspec.Struct, frozen=True):
    """One server-sent event; a comment has no data."""

    id: int | None = None
    event: str | None = None
    data: dict[str, Any] | None = None
    comment: str | None = None


class EventStream:
    """The answer of a route that goes on. `httpx.ASGITransport` would wait for its end."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._started = asyncio.Event()
        self._left = asyncio.Event()
        self._text = ""
        self._has_ended = False

    async def receive(self) -> dict[str, Any]:
        if not self._started.is_set():
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode().lower(): value.decode() for name, value in message["headers"]
            }
            self._started.set()
            return
        self.body += message.get("body", b"")
        self._text += message.get("body", b"").decode()
        *whole, self._text = self._text.replace("\r\n", "\n").split("\n\n")
        for block in whole:
            self._events.put_nowait(_read(block))
        if not message.get("more_body", False):
            self.ended()
            self.leave()  # as a server says after the last byte

    def ended(self) -> None:
        self._started.set()
        if not self._has_ended:
            self._has_ended = True
            self._events.put_nowait(None)

    def leave(self) -> None:
        self._left.set()

    async def started(self) -> None:
        async with asyncio.timeout(5):
            await self._started.wait()

    async def next(self, *, seconds: float = 5) -> Event:
        async with asyncio.timeout(seconds):
            event = await self._events.get()
        assert event is not None, "the stream has ended"
        return event

    async def rest(self, *, seconds: float = 5) -> list[Event]:
        """All events until the stream ends by itself."""
        events = []
        async with asyncio.timeout(seconds):
            while (event := await self._events.get()) is not None:
                events.append(event)
        return events


def _read(block: str) -> Event:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        fields[name or "comment"] = value.removeprefix(" ")
    data = fields.get("data")
    return Event(
        id=int(fields["id"]) if "id" in fields else None,
        event=fields.get("event"),
        data=msgspec.json.decode(data) if data is not None else None,
        comment=fields.get("comment"),
    )


@contextlib.asynccontextmanager
async def open_stream(
    app: Litestar, path: str, headers: Mapping[str, str]
) -> AsyncIterator[EventStream]:
    """GET `path`; leaving the block is a client that goes away."""
    stream = EventStream()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "headers": [(b"host", b"api")]
        + [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "server": ("api", None),
        "client": ("203.0.113.7", 50_000),
        "root_path": "",
    }

    async def run() -> None:
        try:
            await app(cast("Any", scope), cast("Any", stream.receive), cast("Any", stream.send))
        finally:
            stream.ended()

    task = asyncio.create_task(run(), name=f"stream {path}")
    try:
        await stream.started()
        yield stream
    finally:
        stream.leave()
        async with asyncio.timeout(5):
            await task
