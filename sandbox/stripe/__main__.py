"""Serves the sandbox on loopback: `python -m sandbox.stripe --port 9100`.

Its key and webhook secrets come from the environment, under the names that the product reads: the
command line would show them to everyone on the machine.
"""

import argparse
import os
import sys
from collections.abc import Mapping
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
        "--webhook-url",
        help="an endpoint that exists from the start and gets every event; $STRIPE_WEBHOOK_SECRETS"
        " are its secrets, and several sign together, as while one is rolled",
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
    parser.add_argument(
        "--any-key",
        action="store_true",
        help="accept every test key, and not only $STRIPE_SECRET_KEY",
    )
    return parser.parse_args(argv)


def config_from(arguments: argparse.Namespace, environ: Mapping[str, str]) -> StripeSandboxConfig:
    """Raises: SystemExit for an endpoint without a secret."""
    key = environ.get("STRIPE_SECRET_KEY")
    listed = environ.get("STRIPE_WEBHOOK_SECRETS", "").split(",")
    secrets = tuple(secret.strip() for secret in listed if secret.strip())
    endpoints = []
    if arguments.webhook_url:
        if not secrets:
            sys.exit("sandbox.stripe: --webhook-url needs STRIPE_WEBHOOK_SECRETS")
        endpoints.append(Endpoint(url=arguments.webhook_url, secrets=secrets))
    return StripeSandboxConfig(
        keys=frozenset() if arguments.any_key or not key else frozenset({key}),
        endpoints=tuple(endpoints),
        webhook_schedule_seconds=tuple(arguments.webhook_schedule),
        webhook_jitter_seconds=arguments.webhook_jitter,
        state_dir=arguments.state_dir,
        base_url=arguments.base_url,
    )


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    config = config_from(arguments, os.environ)
    return run_server(lambda: create_app(config), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
