"""Serves the sandbox on loopback: `python -m sandbox.fal --port 9000`."""

import argparse
import os
import sys
from pathlib import Path

from sandbox.fal.app import create_app
from sandbox.fal.config import DEFAULT_ACCOUNT, FalSandboxConfig
from sandbox.kit.serving import run_server

# Tests name a folder of their run in it, for all the products that they start.
PICTURES_VARIABLE = "JEWELSHOT_SANDBOX_PICTURES"


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox.fal", description=__doc__)
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
    parser.add_argument(
        "--picture-dir",
        type=Path,
        default=os.environ.get(PICTURES_VARIABLE),
        help=f"keeps computed pictures for others (default: ${PICTURES_VARIABLE})",
    )
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
        picture_dir=arguments.picture_dir,
        base_url=arguments.base_url,
    )


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    return run_server(
        lambda: create_app(config_from(arguments)), host=arguments.host, port=arguments.port
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
