"""The proof of the whole ledger: every row that does not follow from the others."""

from typing import Any

import msgspec

from core.db import Connection, fetch_all

# A million transfers take seconds; the roles' own limits are made for requests.
_TIMEOUT = "select set_config('statement_timeout', '10min', true)"


class Drift(msgspec.Struct, frozen=True):
    """One row that is wrong: which check found it, and the figures that disagree."""

    check: str
    table: str
    row_id: str
    detail: dict[str, Any]


async def reconcile(conn: Connection) -> list[Drift]:
    """Empty when the ledger balances.

    Raises: psycopg.errors.InsufficientPrivilege where row level security would hide rows.
    """
    await conn.execute(_TIMEOUT)
    rows = await fetch_all(
        conn,
        "select check_name, table_name, row_id, detail from app.reconcile()"
        " order by table_name, row_id, check_name",
    )
    return [
        Drift(row["check_name"], row["table_name"], row["row_id"], row["detail"]) for row in rows
    ]
