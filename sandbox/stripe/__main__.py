"""Serves the sandbox on loopback: `python -m sandbox.stripe --port 9100`."""

import argparse
import sys
from pathlib import Path

from sandbox.kit.serving import run_server
from sandbox.stripe.app import create_app
from sandbox.stripe.config import (
    WEBHOOK_SCHEDULE_SECONDS,
    Endpoint,
    StripeSandboxConfig,
)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox.stripe", description=__doc__)
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


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    return run_server(
        lambda: create_app(config_from(arguments)), host=arguments.host, port=arguments.port
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
