"""`python -m sandbox.supabase --config FILE [--host 127.0.0.1] [--port N]`.

FILE is a SupabaseConfig as JSON. A file, because it holds passwords and keys, which the command
line would show to everyone on the machine. Prints `ready <url>` and stops on SIGTERM.
"""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

from sandbox.kit.guard import SandboxRefusedError, require_loopback, require_sandbox_allowed
from sandbox.supabase.app import create_app
from sandbox.supabase.config import read_config
from sandbox.supabase.serve import serve_until_stopped


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.supabase")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--host", default=None, help="default: the host of base_url")
    parser.add_argument("--port", type=int, default=None, help="default: the port of base_url")
    return parser.parse_args()


def main() -> int:
    arguments = _parse()
    try:
        require_sandbox_allowed(os.environ)
        config = read_config(arguments.config)
        base = urlsplit(config.base_url)
        host = arguments.host or base.hostname or "127.0.0.1"
        require_loopback(host)
        app = create_app(config)
    except (SandboxRefusedError, msgspec.DecodeError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    port = arguments.port or base.port or 54321
    uvloop.run(serve_until_stopped(app, host=host, port=port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
