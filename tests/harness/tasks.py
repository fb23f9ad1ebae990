"""The outbox of a test's database: what was added to it, and a worker's hands.

    task = assert_task(database, "upload.erase", args={"upload_id": upload_id})
    refute_task(database, "payment.sync")
    assert await drain_tasks(database, ctx) == ["done", "done"]

Nothing runs by itself. What is due says the clock of the database, which a test may advance.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from core.tasks import outbox
from core.tasks.outbox import Task
from tests.harness.database import TestDatabase
from worker import runner
from worker.context import WorkerContext

Row = dict[str, Any]
_BACKGROUND_SECONDS = 20
_ROUNDS_MAX = 100


# --- what is there -------------------------------------------------------------------------------


def list_tasks(
    database: TestDatabase,
    job: str | None = None,
    *,
    args: Mapping[str, Any] | None = None,
    dedupe_key: object = None,
) -> list[Row]:
    """Live tasks, the oldest first. `args`: those that a task has among its own."""
    return database.rows(
        "select * from app.outbox where (%(job)s::text is null or job = %(job)s)"
        " and args @> %(args)s and (%(key)s::text is null or dedupe_key = %(key)s)"
        " order by created_at, id",
        {
            "job": job,
            "args": Jsonb({name: str(value) for name, value in (args or {}).items()}),
            "key": None if dedupe_key is None else str(dedupe_key),
        },
    )


def list_jobs(database: TestDatabase) -> list[str]:
    """The job of each live task, by name."""
    return sorted(task["job"] for task in list_tasks(database))


def assert_task(
    database: TestDatabase,
    job: str,
    *,
    args: Mapping[str, Any] | None = None,
    dedupe_key: object = None,
) -> Row:
    """The one live task of `job` that fits."""
    found = list_tasks(database, job, args=args, dedupe_key=dedupe_key)
    assert len(found) == 1, f"{len(found)} tasks of {job}; there are {list_jobs(database)}"
    return found[0]


def refute_task(
    database: TestDatabase,
    job: str | None = None,
    *,
    args: Mapping[str, Any] | None = None,
    dedupe_key: object = None,
) -> None:
    assert list_tasks(database, job, args=args, dedupe_key=dedupe_key) == []


def seconds_until_due(database: TestDatabase, task_id: uuid.UUID) -> float:
    row = database.row(
        "select extract(epoch from due_at - app.now())::double precision as seconds"
        " from app.outbox where id = %s",
        (task_id,),
    )
    return float(row["seconds"])


def list_letters(database: TestDatabase) -> list[Row]:
    """Dead letters, the oldest first."""
    return database.rows("select * from app.dead_letters order by died_at, id")


# --- arranging -----------------------------------------------------------------------------------


def add_task(
    database: TestDatabase,
    job: str,
    *,
    args: Mapping[str, Any] | None = None,
    dedupe_key: object = None,
    delay_seconds: float = 0,
) -> uuid.UUID:
    """As the product's functions add one."""
    row = database.row(
        "select app.add_task(%s, %s, %s, %s) as id",
        (
            job,
            Jsonb({name: str(value) for name, value in (args or {}).items()}),
            None if dedupe_key is None else str(dedupe_key),
            delay_seconds,
        ),
    )
    task_id: uuid.UUID = row["id"]
    return task_id


def discard_tasks(database: TestDatabase, job: str | None = None) -> None:
    """What this test is not about."""
    database.rows(
        "delete from app.outbox where %(job)s::text is null or job = %(job)s", {"job": job}
    )


async def claim_task(ctx: WorkerContext, task_id: uuid.UUID, *, lease_seconds: float = 60) -> Task:
    """The task under a lease that this test holds, as a worker that does nothing with it."""
    task = await ctx.db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=lease_seconds))
    assert task is not None, "somebody holds it, or it is gone"
    return task


def pass_leases(database: TestDatabase) -> None:
    """Until no task is held by anybody any more."""
    database.clock.advance_past("select max(lease_until) from app.outbox")


def pass_delays(database: TestDatabase) -> None:
    """Until every task that nobody holds is due."""
    database.clock.advance_past("select max(due_at) from app.outbox where lease_until is null")


# --- running -------------------------------------------------------------------------------------


async def run_task(ctx: WorkerContext, task_id: uuid.UUID) -> str:
    """What became of it: done, again, retry, dead, lease_lost, or gone."""
    outcome = await runner.execute(ctx, task_id)
    await ctx.wait_for_background(timeout_seconds=_BACKGROUND_SECONDS)
    return outcome


async def run_tasks(
    database: TestDatabase,
    ctx: WorkerContext,
    *,
    job: str | None = None,
    within_seconds: float = 5,
) -> list[str]:
    """Once each that nobody holds and that is due soon: what became of them, the oldest first."""
    due = database.rows(
        "select id from app.outbox where due_at < app.now() + make_interval(secs => %(seconds)s)"
        " and (lease_until is null or lease_until < app.now())"
        " and (%(job)s::text is null or job = %(job)s) order by created_at, id",
        {"seconds": within_seconds, "job": job},
    )
    outcomes = [await runner.execute(ctx, row["id"]) for row in due]
    await ctx.wait_for_background(timeout_seconds=_BACKGROUND_SECONDS)
    return outcomes


async def drain_tasks(
    database: TestDatabase,
    ctx: WorkerContext,
    *,
    job: str | None = None,
    within_seconds: float = 5,
) -> list[str]:
    """As `run_tasks`, until none is due any more: also what they have added."""
    outcomes: list[str] = []
    for _ in range(_ROUNDS_MAX):
        ran = await run_tasks(database, ctx, job=job, within_seconds=within_seconds)
        if not ran:
            return outcomes
        outcomes += ran
    raise AssertionError(f"no end of tasks: {list_jobs(database)}")
