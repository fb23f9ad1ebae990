"""Serves the sandbox on loopback: `python -m scripts.sandbox.stripe --port 9100`."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import uvloop
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from scripts.sandbox.guard import SandboxRefusedError, require_loopback, require_sandbox_allowed
from scripts.sandbox.stripe.app import create_app
from scripts.sandbox.stripe.config import (
    WEBHOOK_SCHEDULE_SECONDS,
    Endpoint,
    StripeSandboxConfig,
)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts.sandbox.stripe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, help="keeps all objects over restarts")
    parser.add_argument("--base-url", help="how clients reach it (default: their Host header)")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="sk_test_…",
        help="accepted key; without any, every test key is accepted",
    )
    parser.add_argument(
        "--webhook-url", help="an endpoint that exists from the start and gets every event"
    )
    parser.add_argument(
        "--webhook-secret",
        action="append",
        default=[],
        metavar="whsec_…",
        help="its secret; several sign together, as while one is rolled",
    )
    parser.add_argument(
        "--webhook-schedule",
        type=float,
        nargs="+",
        default=list(WEBHOOK_SCHEDULE_SECONDS),
        metavar="SECONDS",
        help="the pause before each attempt",
    )
    parser.add_argument("--webhook-jitter", type=float, default=0.0, metavar="SECONDS")
    arguments = parser.parse_args(argv)
    if arguments.webhook_url and not arguments.webhook_secret:
        parser.error("--webhook-url needs a --webhook-secret")
    return arguments


def config_from(arguments: argparse.Namespace) -> StripeSandboxConfig:
    endpoints = []
    if arguments.webhook_url:
        endpoints.append(
            Endpoint(url=arguments.webhook_url, secrets=tuple(arguments.webhook_secret))
        )
    return StripeSandboxConfig(
        keys=frozenset(arguments.key),
        endpoints=tuple(endpoints),
        webhook_schedule_seconds=tuple(arguments.webhook_schedule),
        webhook_jitter_seconds=arguments.webhook_jitter,
        state_dir=arguments.state_dir,
        base_url=arguments.base_url,
    )


async def serve(arguments: argparse.Namespace) -> None:
    server = Server(
        create_app(config_from(arguments)),
        address=arguments.host,
        port=arguments.port,
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


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    try:
        require_sandbox_allowed(os.environ)
        require_loopback(arguments.host)
    except SandboxRefusedError as error:
        print(error, file=sys.stderr)
        return 2
    uvloop.run(serve(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
