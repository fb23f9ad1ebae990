"""Prove that every credit is accounted for: `python -m scripts.reconcile [--json] [--url URL]`.

Exit code 0: the ledger balances. 1: it does not, and each wrong row is named. 2: cannot tell.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from core.db import Connection
from core.nouns import NOUNS
from core.proofs import Drift, prove
from sandbox.stack import DEFAULT_STATE_DIR, EmbeddedPostgres, StackError

BALANCED, DRIFT, UNKNOWN = 0, 1, 2
ROWS_SHOWN = 20  # of each check; --all shows the rest
CONNECT_SECONDS = 10

# Without row security this raises for a role that would see a part only.
_COUNT = """
select (select count(*) from app.ledger_transfers) as transfers,
  (select count(*) from app.credit_accounts) as accounts
"""


class CannotTellError(Exception):
    """The proof could not be run; the message says why."""


class Report(msgspec.Struct, frozen=True):
    """`accounts` and `transfers` are null for a role that may prove but not read every row."""

    drift: list[Drift]
    accounts: int | None
    transfers: int | None
    seconds: float


async def _count(conn: Connection) -> dict[str, Any]:
    try:
        async with conn.transaction():
            await conn.execute("set local row_security = off")
            row = await (await conn.execute(_COUNT)).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return {"accounts": None, "transfers": None}
    assert row is not None
    return row


@contextlib.asynccontextmanager
async def _snapshot(conn: Connection) -> AsyncIterator[None]:
    """Every proof sees the database at the same moment."""
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await conn.set_read_only(True)
    async with conn.transaction():
        yield


async def report_on(url: str) -> Report:
    """Raises: CannotTellError."""
    started = time.monotonic()
    try:
        async with (
            await psycopg.AsyncConnection.connect(
                url,
                row_factory=dict_row,
                connect_timeout=CONNECT_SECONDS,
                prepare_threshold=None,
                application_name="jewelshot-reconcile",
            ) as conn,
            _snapshot(conn),
        ):
            counts = await _count(conn)
            drift = await prove(conn, NOUNS)
    except psycopg.errors.InsufficientPrivilege as error:
        raise CannotTellError(
            "this role may not run the proof, or row level security would hide rows from it:"
            f" {error.diag.message_primary}. Connect as the role that migrates."
        ) from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction) as error:
        raise CannotTellError("this database has no ledger: run `make migrate` first") from error
    except psycopg.Error as error:
        raise CannotTellError(f"{type(error).__name__}: {error}") from error
    return Report(drift, counts["accounts"], counts["transfers"], time.monotonic() - started)


@contextlib.contextmanager
def _database_url(given: str | None, state_dir: Path) -> Iterator[str]:
    """The URL that was given, or the local stack's database, started for this if nobody runs it."""
    url = given or os.environ.get("MIGRATION_DATABASE_URL")
    if url:
        yield url
        return
    folder = state_dir / "postgres"
    if not folder.exists():
        raise CannotTellError(
            "set MIGRATION_DATABASE_URL or give --url: there is no local stack in"
            f" {state_dir} either (make run makes one)"
        )
    server = EmbeddedPostgres(folder)
    if server.attach():
        yield server.url("postgres")
        return
    with server:
        yield server.url("postgres")


def _figures(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in detail.items() if value is not None)


def _print_table(report: Report, *, show_all: bool) -> None:
    if not report.drift:
        size = ""
        if report.transfers is not None:
            size = f" {report.transfers:,} transfers of {report.accounts:,} accounts,"
        print(f"reconcile: the ledger balances:{size} 0 drift ({report.seconds:.1f} s)")
        return
    shown = Counter[str]()
    rows = []
    for row in report.drift:
        shown[row.check] += 1
        if show_all or shown[row.check] <= ROWS_SHOWN:
            rows.append(row)
    widths = [
        max(len(title), *(len(value) for value in column))
        for title, column in (
            ("table", [row.table for row in rows]),
            ("row", [row.row_id for row in rows]),
            ("check", [row.check for row in rows]),
        )
    ]
    for values in (("table", "row", "check", "figures"), *map(_cells, rows)):
        padded = [value.ljust(width) for value, width in zip(values, widths, strict=False)]
        print("  ".join([*padded, values[-1]]))
    for check, count in shown.items():
        if not show_all and count > ROWS_SHOWN:
            print(f"... and {count - ROWS_SHOWN:,} more of {check} (--all shows them)")
    print(
        f"reconcile: DRIFT, {len(report.drift):,} rows do not follow from the others",
        file=sys.stderr,
    )


def _cells(row: Drift) -> tuple[str, str, str, str]:
    return row.table, row.row_id, row.check, _figures(row.detail)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="reconcile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--all", action="store_true", help="every row, not the first of each check")
    parser.add_argument("--url", help="instead of MIGRATION_DATABASE_URL")
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR)
    options = parser.parse_args(arguments)
    try:
        with _database_url(options.url, options.state_dir) as url:
            report = asyncio.run(report_on(url))
    except (CannotTellError, StackError) as error:
        if options.json:
            print(msgspec.json.encode({"error": str(error)}).decode())
        print(f"reconcile: cannot tell: {error}", file=sys.stderr)
        return UNKNOWN
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        _print_table(report, show_all=options.all)
    return DRIFT if report.drift else BALANCED


if __name__ == "__main__":
    sys.exit(main())
