"""Serves a stand-in on loopback until SIGTERM or SIGINT: the end of each `__main__`."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import uvloop
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from litestar import Litestar

from sandbox.kit.guard import SandboxRefusedError, require_loopback, require_sandbox_allowed


def run_server(build: Callable[[], Litestar], *, host: str, port: int) -> int:
    """The exit code: 2 where a stand-in may not run. `build` is called once that is known."""
    try:
        require_sandbox_allowed(os.environ)
        require_loopback(host)
    except SandboxRefusedError as error:
        print(error, file=sys.stderr)
        return 2
    uvloop.run(_serve(build(), host=host, port=port))
    return 0


async def _serve(app: Litestar, *, host: str, port: int) -> None:
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        backlog=2048,
        backpressure=8192,
        websockets=False,
        http1_settings=HTTP1Settings(keep_alive=True),
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve()
