"""How long a peer that has vanished may be taken for a slow one: a minute.

A machine that loses its network says no goodbye. Without these a connection to it waits for as
long as the system likes, two hours by default, and whoever reads from it with it.
"""

import socket
from typing import Any, Final

_IDLE_SECONDS: Final = 30
_INTERVAL_SECONDS: Final = 10
_PROBES: Final = 3

# Of libpq: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
DATABASE: Final[dict[str, Any]] = {
    "keepalives": 1,
    "keepalives_idle": _IDLE_SECONDS,
    "keepalives_interval": _INTERVAL_SECONDS,
    "keepalives_count": _PROBES,
    "tcp_user_timeout": (_IDLE_SECONDS + _PROBES * _INTERVAL_SECONDS) * 1_000,  # sent, no answer
}

# Of redis-py; a system may lack some of the names (macOS has TCP_KEEPALIVE for the first).
REDIS: Final[dict[str, Any]] = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (
            ("TCP_KEEPIDLE", _IDLE_SECONDS),
            ("TCP_KEEPINTVL", _INTERVAL_SECONDS),
            ("TCP_KEEPCNT", _PROBES),
        )
        if hasattr(socket, name)
    },
}
