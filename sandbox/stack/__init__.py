"""PostgreSQL and Valkey on this machine, from wheels: no account, no Docker, no system service."""

from sandbox.stack.errors import StackError
from sandbox.stack.local import DEFAULT_STATE_DIR, LocalStack
from sandbox.stack.ports import LOOPBACK, free_port
from sandbox.stack.postgres import SUPERUSER, EmbeddedPostgres
from sandbox.stack.valkey import EmbeddedValkey

__all__ = [
    "DEFAULT_STATE_DIR",
    "LOOPBACK",
    "SUPERUSER",
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "LocalStack",
    "StackError",
    "free_port",
]
