"""Serves the stand-in on loopback: `python -m sandbox.turnstile --port 9200`.

Its secret is $TURNSTILE_SECRET_KEY, or the one for tests that always passes.
"""

import argparse
import os
import sys

from sandbox.kit.serving import run_server
from sandbox.turnstile.app import ALWAYS_PASSES, create_app


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sandbox.turnstile", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args(argv)
    secret = os.environ.get("TURNSTILE_SECRET_KEY", ALWAYS_PASSES)
    return run_server(lambda: create_app(secret), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
