"""Our client against the provider's stand-in, and against sockets that misbehave."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import httpx
from litestar import Litestar
from pydantic import SecretStr

from core.generations.providers.fal.client import FalClient, FalResultOutcome, fingerprint
from core.generations.providers.types import (
    Accepted,
    Completed,
    SubmitOutcome,
)
from core.settings import FalKey, Settings
from tests.harness.settings import build_settings

SECRET = "key-a:secret-a"
FINGERPRINT = fingerprint(SECRET)
CUTOUT = "fal-ai/birefnet/v2"
EDIT = "fal-ai/nano-banana-2/edit"
SANDBOX_URL = "http://127.0.0.1:54330"
BODIES: dict[str, dict[str, Any]] = {
    CUTOUT: {"image_url": "https://example.com/ring.jpg"},
    EDIT: {"prompt": "on a marble slab", "image_urls": ["https://example.com/ring.jpg"]},
}


def fal_settings(base_url: str = SANDBOX_URL, **overrides: object) -> Settings:
    values: dict[str, object] = {
        "fal_queue_url": base_url,
        "fal_rest_url": base_url,
        "fal_jwks_url": f"{base_url}/.well-known/jwks.json",
        "fal_output_hosts": ("fal.media", "*.fal.media"),
        "fal_keys": (FalKey(name="FAL_AI_KEY_1", secret=SecretStr(SECRET), account="main"),),
        "provider_submit_timeout_seconds": 5,
    }
    return build_settings(
        database_url="postgresql://nobody@127.0.0.1:9/none",
        worker_database_url="postgresql://nobody@127.0.0.1:9/none",
        redis_url="redis://127.0.0.1:9",
        redis_prefix="test",
        **(values | overrides),
    )


class Fal:
    """The stand-in in the test's own process, our client of it, and what the client sent."""

    def __init__(self, app: Litestar) -> None:
        self.app = app
        self.sent: list[httpx.Request] = []
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(cast("Any", app)),
            event_hooks={"request": [self._note]},
        )
        self.client = FalClient(fal_settings(), self.http)
        self.control = httpx.AsyncClient(
            transport=httpx.ASGITransport(cast("Any", app)), base_url=SANDBOX_URL
        )

    async def _note(self, request: httpx.Request) -> None:
        self.sent.append(request)

    async def aclose(self) -> None:
        await self.http.aclose()
        await self.control.aclose()

    async def fault(self, kind: str, **args: Any) -> None:
        answer = await self.control.post("/__control/faults", json={"kind": kind, "args": args})
        assert answer.status_code == 200, answer.text

    async def outage(self, kind: str, **rest: Any) -> None:
        answer = await self.control.post("/__control/outages", json={"kind": kind, **rest})
        assert answer.status_code == 200, answer.text

    async def tune(self, **changes: Any) -> None:
        answer = await self.control.patch("/__control/config", json=changes)
        assert answer.status_code == 200, answer.text

    async def paid_calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = (await self.control.get("/__control/ledger")).json()["calls"]
        return calls

    async def submit(self, endpoint: str = CUTOUT, **changes: Any) -> SubmitOutcome:
        options: dict[str, Any] = {
            "fingerprint": FINGERPRINT,
            "endpoint": endpoint,
            "body": BODIES.get(endpoint, {}),
            "webhook_url": None,
            "start_timeout_seconds": 60.0,
        }
        return await self.client.submit(**(options | changes))

    async def accepted(self, endpoint: str = CUTOUT, **changes: Any) -> Accepted:
        outcome = await self.submit(endpoint, **changes)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def completed(self, call: Accepted) -> Completed:
        async with asyncio.timeout(10):
            while True:
                status = await self.client.status(
                    fingerprint=FINGERPRINT, status_url=call.status_url
                )
                if isinstance(status, Completed):
                    return status
                await asyncio.sleep(0.01)

    async def result(self, call: Accepted) -> FalResultOutcome:
        return await self.client.result(fingerprint=FINGERPRINT, response_url=call.response_url)

    async def ended(self, endpoint: str = CUTOUT, **changes: Any) -> FalResultOutcome:
        """Submit, wait for the end, fetch the result."""
        call = await self.accepted(endpoint, **changes)
        await self.completed(call)
        return await self.result(call)


# --- sockets -------------------------------------------------------------------------------------

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """A socket that reads requests and does with them what the test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.base_url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            self.requests.append(head + await reader.readexactly(size))
            self.asked.set()
            await self._behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def wire(behaviour: Behaviour) -> AsyncIterator[Wire]:
    made = Wire(behaviour)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


def says(status: int, body: bytes, **headers: str) -> Behaviour:
    """One whole answer; `_` in a header's name stands for `-`."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return behave


def says_raw(answer: bytes) -> Behaviour:
    """These bytes, then the end of the connection."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return behave


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RST after the request was read."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def stays_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side has had enough


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
