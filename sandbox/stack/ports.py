"""Free ports on loopback."""

import json
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port that is free at this moment.

    Another process may take it before our server binds it, so every start that chose its port
    here tries again with another one when binding fails.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT is free for them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


class RememberedPorts:
    """Ports that stay the same over restarts, as long as nobody else has taken them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, name: str, wanted: int | None = None) -> int:
        """The port of last time, else `wanted`, else any; the first of them that is free."""
        known: dict[str, int] = json.loads(self._path.read_text()) if self._path.exists() else {}
        candidates = [port for port in (known.get(name), wanted) if port is not None]
        port = next((port for port in candidates if is_free(port)), None) or free_port()
        self._path.write_text(json.dumps({**known, name: port}))
        return port
