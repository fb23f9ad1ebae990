"""`python -m api`: the HTTP server's processes."""

import argparse
import sys

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings

from core.settings import Service, SettingsError, load_settings

KILL_SECONDS = 20
# What a connection may hold of a body that nobody reads yet. The server's own default, 400 KiB, is
# more than we keep of a photo in memory.
CONNECTION_BYTES_MAX = 64 * 1024
# Requests that may be waited for at once. The server's own default, 1,024, is what somebody with a
# thousand slow connections takes from everybody; each that waits costs some kilobytes.
REQUESTS_MAX = 16_384


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api", description="The Jewelshot API")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    try:
        # In the parent, so that a mistake is said once and is no crash loop.
        load_settings(service=Service.API)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  there is no log yet
        return 2
    Granian(
        "api.app:create_app_from_environment",
        factory=True,
        address=arguments.host,
        port=arguments.port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=arguments.workers,
        websockets=False,
        http1_settings=HTTP1Settings(max_buffer_size=CONNECTION_BYTES_MAX),
        backlog=4_096,
        backpressure=REQUESTS_MAX,
        log_access=False,
        workers_kill_timeout=KILL_SECONDS,
        respawn_failed_workers=True,
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
