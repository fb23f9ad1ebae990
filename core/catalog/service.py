"""The catalogue: the active version of each operation, cached by each process for seconds.

The database charges prices from its own rows; the cache is for reading and for checking
parameters.
"""

import time
import uuid
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from core.catalog import params as catalog_params
from core.catalog.types import Operation
from core.db import Connection, fetch_all
from core.errors import NotFoundError

REMEMBER_SECONDS = 5.0

_ACTIVE_OPERATIONS = """
select slug, version, title, description, lane, cost_credits, steps, output_rule, params_schema,
  presets, wait_seconds, batch_wait_seconds, deadline_seconds, uncertain_seconds, cancel_credits
from app.operations
where is_active
order by cost_credits, slug
"""


class _Memory(msgspec.Struct, frozen=True):
    read_at: float
    operations: dict[str, Operation]


# By database, because one process may use several.
_remembered: dict[tuple[str, int, str], _Memory] = {}


async def list_operations(conn: Connection) -> list[Operation]:
    """Cheapest first."""
    return list((await _active(conn)).values())


async def find_operation(conn: Connection, slug: str) -> Operation | None:
    return (await _active(conn)).get(slug)


async def get_operation(conn: Connection, slug: str) -> Operation:
    """Raises: NotFoundError."""
    found = await find_operation(conn, slug)
    if found is None:
        raise NotFoundError(kind="operation")
    return found


def check_params(operation: Operation, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a run, complete.  Raises: InvalidInputError."""
    return catalog_params.check(operation.params_schema, params)


async def check_possible(
    conn: Connection, operation: Operation, upload_id: uuid.UUID, params: dict[str, Any]
) -> None:
    """Refuses what the steps cannot do with this photo, as starting it would. `params` are checked.

    Raises: NotFoundError (upload), ConflictError (it is not ready), InvalidInputError.
    """
    await conn.execute(
        "select app.check_possible(%s, %s, %s)", (operation.slug, upload_id, Jsonb(params))
    )


def invalidate_cache() -> None:
    """After a change of the catalogue that must be seen at once."""
    _remembered.clear()


async def _active(conn: Connection) -> dict[str, Operation]:
    info = conn.info
    key = (info.host, info.port, info.dbname)
    known = _remembered.get(key)
    now = time.monotonic()
    if known is not None and now - known.read_at < REMEMBER_SECONDS:
        return known.operations
    rows = await fetch_all(conn, _ACTIVE_OPERATIONS)
    operations = {row["slug"]: msgspec.convert(row, Operation) for row in rows}
    _remembered[key] = _Memory(now, operations)
    return operations
