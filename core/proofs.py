"""The proof of the whole database: every row that does not follow from the others.

Each noun states its proofs, each one statement; all of them run in one snapshot, so that what
they compare belongs to one moment.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import structlog
from psycopg import sql

from core.db import Connection, Database, fetch_all
from core.metrics import Counters
from core.noun import Noun
from core.tasks.jobs import DONE, Fence, Job, Outcome
from core.tasks.outbox import Task
from core.tasks.queues import Queue

log = structlog.get_logger()

# A million transfers take seconds; the roles' own limits are made for requests.
_TIMEOUT = "select set_config('statement_timeout', '10min', true)"


class Drift(msgspec.Struct, frozen=True):
    """One row that is wrong: which check found it, and the figures that disagree."""

    check: str
    table: str
    row_id: str
    detail: dict[str, Any]


def statements(nouns: Sequence[Noun[Any]]) -> list[str]:
    """Of all nouns, in their order; each returns (check_name, table_name, row_id, detail)."""
    return [statement for noun in nouns for statement in noun.proofs]


async def prove(conn: Connection, nouns: Sequence[Noun[Any]]) -> list[Drift]:
    """Empty when everything follows. `conn` is in a snapshot: `Database.run(…, snapshot=True)`.

    Raises: psycopg.errors.InsufficientPrivilege where row level security would hide rows.
    """
    await conn.execute(_TIMEOUT)
    found: list[Drift] = []
    for statement in statements(nouns):
        rows = await fetch_all(conn, sql.SQL(statement))
        found += [
            Drift(row["check_name"], row["table_name"], row["row_id"], row["detail"])
            for row in rows
        ]
    return sorted(found, key=lambda drift: (drift.table, drift.row_id, drift.check))


class ProofTools(Protocol):
    """`db` signs in as the worker."""

    @property
    def db(self) -> Database: ...
    @property
    def counters(self) -> Counters: ...


def noun_of_proofs(nouns: Sequence[Noun[Any]]) -> Noun[Job[ProofTools]]:
    """The nightly proof, as a noun of its own, built from all the others."""

    async def run(tools: ProofTools, _: Task) -> Outcome:
        """`proofs.run` {}: any drift is an alarm, an error line for each row and a counter."""
        drift = await tools.db.run(lambda conn: prove(conn, nouns), snapshot=True)
        for row in drift:
            log.error("ledger.drift", check=row.check, table=row.table, row_id=row.row_id)
        tools.counters.add("jewelshot_ledger_drift_total", len(drift))
        return DONE

    return Noun(
        name="proofs",
        jobs={
            "proofs.run": Job(
                run=run,
                queue=Queue.BACKGROUND,
                fence=Fence.STATE,
                when_dead="Nothing was proved that night: run `make reconcile` by hand.",
                lease_seconds=900,
                deadline_seconds=7_200,
            )
        },
    )
