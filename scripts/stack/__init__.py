"""PostgreSQL and Valkey on this machine, from wheels: no account, no Docker, no system service."""

from scripts.stack.errors import StackError
from scripts.stack.local import DEFAULT_STATE_DIR, LocalStack
from scripts.stack.ports import LOOPBACK, free_port
from scripts.stack.postgres import SUPERUSER, EmbeddedPostgres
from scripts.stack.valkey import EmbeddedValkey

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
