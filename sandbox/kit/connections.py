"""Ends a client's connection without an answer, as a crashing proxy does."""

import contextlib
import os
import socket
import stat
from pathlib import Path

from litestar.types import Scope

_FD_DIRS = (Path("/proc/self/fd"), Path("/dev/fd"))


def drop_connection(scope: Scope) -> bool:
    """True if the socket of this request was found and shut down.

    ASGI has no message for it, so the socket is found among our own descriptors by its peer.
    An in-process transport has no socket: False.
    """
    client = scope.get("client")
    directory = next((path for path in _FD_DIRS if path.is_dir()), None)
    if client is None or directory is None:
        return False
    peer = (client[0], int(client[1]))  # the server gives the port as text
    for descriptor in [int(entry.name) for entry in directory.iterdir()]:
        # Closed in the meantime, or without a peer: not the socket of this request.
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                if copy.getpeername()[:2] == peer:
                    copy.shutdown(socket.SHUT_RDWR)
                    return True
    return False
