"""What tasks bring to worker, health, figures and proofs: see core/noun.py."""

from collections.abc import Mapping
from typing import Any, Protocol

from core import idempotency, metrics
from core.db import Connection, Database
from core.noun import Check, Health, Noun
from core.settings import Settings
from core.tasks import dead_letters, heartbeats
from core.tasks.jobs import DONE, Fence, Job, Outcome
from core.tasks.outbox import Task
from core.tasks.queues import Queue

_LETTERS_AT_ONCE = 1_000


class HousekeepingTools(Protocol):
    """`db` signs in as the worker."""

    @property
    def db(self) -> Database: ...


async def purge(tools: HousekeepingTools, _: Task) -> Outcome:
    """`housekeeping.purge` {}: stored answers of idempotency keys after 24 hours, heartbeats of
    processes that ended, counters that nobody adds to, and dead letters past their time."""

    async def work(conn: Connection) -> int:
        await idempotency.delete_expired(conn)
        await heartbeats.delete_stale(conn)
        await metrics.delete_stale(conn)
        return await dead_letters.purge_dead_letters(conn, limit=_LETTERS_AT_ONCE)

    while await tools.db.run(work) == _LETTERS_AT_ONCE:
        pass
    return DONE


_LAG_SECONDS_MAX = 60


def _check(row: Mapping[str, Any], _: Settings) -> list[Check]:
    facts = row["health"]
    lag = round(facts["outbox_lag_seconds"], 1)
    return [
        Check("workers", facts["workers"] > 0, {"alive": facts["workers"]}),
        Check(
            "outbox",
            lag < _LAG_SECONDS_MAX,
            {"lag_seconds": lag, "dead_letters_last_hour": facts["dead_letters_last_hour"]},
        ),
    ]


NOUN = Noun(
    name="tasks",
    health=Health(query="select app.tasks_health() as health", check=_check),
    figures="select * from app.tasks_figures()",
    jobs={
        "housekeeping.purge": Job(
            run=purge,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Rows past their time stay until the next hour's run; nothing reads them.",
        ),
    },
)
