"""Serving the stand-in on loopback, in this process, until it is asked to stop."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator

import httpx
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar

from sandbox.kit.guard import require_loopback

START_SECONDS = 30


async def _wait_ready(base_url: str, task: "asyncio.Task[None]") -> None:
    async with httpx.AsyncClient(base_url=base_url, timeout=2) as client:
        async with asyncio.timeout(START_SECONDS):
            while True:
                if task.done():
                    task.result()
                    raise RuntimeError("the sandbox ended while it was starting")
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/__control/ready")).is_success:
                        return
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serving(app: Litestar, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve `app`; yields its base URL once it answers.

    Raises: SandboxRefusedError for an address outside this machine.
    """
    require_loopback(host)
    server = Server(
        app, address=host, port=port, interface=Interfaces.ASGI, log_enabled=False, websockets=False
    )
    task = asyncio.create_task(server.serve())
    base_url = f"http://{host}:{port}"
    try:
        await _wait_ready(base_url, task)
        yield base_url
    finally:
        server.stop()  # type: ignore[no-untyped-call]  # granian annotates it not
        await task


async def serve_until_stopped(app: Litestar, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    async with serving(app, host=host, port=port) as base_url:
        print(f"ready {base_url}", flush=True)
        await stopped.wait()


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
