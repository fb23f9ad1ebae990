"""Serves the sandbox on loopback: `python -m scripts.sandbox.fal --port 9000`."""

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

from scripts.sandbox.fal.app import create_app
from scripts.sandbox.fal.config import DEFAULT_ACCOUNT, FalSandboxConfig
from scripts.sandbox.guard import SandboxRefusedError, require_loopback, require_sandbox_allowed


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts.sandbox.fal", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, help="keeps the webhook key")
    parser.add_argument("--base-url", help="how clients reach it (default: their Host header)")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="ID:SECRET[=ACCOUNT]",
        help="accepted key; without any, every well-formed key is accepted",
    )
    parser.add_argument("--account-limit", type=int, default=2)
    parser.add_argument("--model-seconds", type=float, default=1.0)
    parser.add_argument("--prerendered", action="store_true")
    parser.add_argument("--render-processes", type=int, default=1)
    return parser.parse_args(argv)


def config_from(arguments: argparse.Namespace) -> FalSandboxConfig:
    accounts = {}
    for item in arguments.key:
        key, _, account = item.partition("=")
        accounts[key] = account or DEFAULT_ACCOUNT
    return FalSandboxConfig(
        accounts=accounts,
        account_limit=arguments.account_limit,
        model_seconds=arguments.model_seconds,
        prerendered=arguments.prerendered,
        state_dir=arguments.state_dir,
        render_processes=arguments.render_processes,
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
