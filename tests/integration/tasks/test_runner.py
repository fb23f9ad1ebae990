"""The contract of jobs: what becomes of a task by what its job returns, raises or leaves undone."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest

from core import errors
from core.db import Connection, Database
from core.errors import FailureKind, InJobs, PermanentError, RetryableError
from core.settings import Settings
from core.tasks import outbox
from core.tasks.errors import LeaseLostError
from core.tasks.jobs import DONE, Again, Backoff, Fence, Job, Outcome
from core.tasks.outbox import Task
from core.tasks.queues import Queue
from tests.harness.database import TestDatabase
from tests.harness.ledger import admin_claims
from tests.integration.tasks.conftest import open_context
from worker import runner
from worker.context import WorkerContext

Run = Callable[[WorkerContext, Task], Awaitable[Outcome]]

JOB = "toy.polish"


@pytest.fixture
async def ctx(settings: Settings, db_worker: Database) -> AsyncIterator[WorkerContext]:
    async with open_context(settings, db_worker) as opened:
        yield opened


class Outbox:
    """One toy job and its tasks."""

    def __init__(self, database: TestDatabase, ctx: WorkerContext) -> None:
        self.database = database
        self.ctx = ctx

    def add(self, key: str | None = "ring") -> uuid.UUID:
        row = self.database.row("select app.add_task(%s, '{}', %s) as id", (JOB, key))
        task_id: uuid.UUID = row["id"]
        return task_id

    def rows(self) -> list[dict[str, Any]]:
        return self.database.rows("select * from app.outbox where job = %s", (JOB,))

    def letters(self) -> list[dict[str, Any]]:
        return self.database.rows("select * from app.dead_letters order by died_at")

    async def run(self, task_id: uuid.UUID, run: Run, **terms: Any) -> str:
        told = {"fence": Fence.STATE, "queue": Queue.DEFAULT, "when_dead": "Nothing."}
        job = Job(**{"run": run, **told, **terms})
        return await runner.execute(self.ctx, task_id, jobs={JOB: job})


@pytest.fixture
def toy(database: TestDatabase, ctx: WorkerContext) -> Outbox:
    return Outbox(database, ctx)


async def nothing(_: WorkerContext, __: Task) -> Outcome:
    return DONE


def raising(error: Exception) -> Run:
    async def run(_: WorkerContext, __: Task) -> Outcome:
        raise error

    return run


# --- done ----------------------------------------------------------------------------------------


async def test_a_job_that_completes_nothing_is_completed_once(toy: Outbox) -> None:
    task_id = toy.add()
    assert await toy.run(task_id, nothing) == "done"
    assert toy.rows() == []
    assert await toy.run(task_id, nothing) == "gone"


async def test_a_job_may_complete_in_the_transaction_of_its_effect(toy: Outbox) -> None:
    async def run(ctx: WorkerContext, task: Task) -> Outcome:
        await ctx.db.run(lambda conn: outbox.finish(conn, task.lease_token))
        return DONE

    assert await toy.run(toy.add(), run, fence=Fence.LEASE) == "done"
    assert toy.rows() == []


@pytest.mark.parametrize("fence", Fence)
async def test_what_is_wanted_while_it_runs_runs_again(toy: Outbox, fence: Fence) -> None:
    task_id = toy.add()
    runs = 0

    async def run(ctx: WorkerContext, task: Task) -> Outcome:
        nonlocal runs
        runs += 1
        if runs == 1:
            assert toy.add() == task_id, "the live task is wanted once more"
        if fence is Fence.LEASE:
            await ctx.db.run(lambda conn: outbox.finish(conn, task.lease_token))
        return DONE

    assert await toy.run(task_id, run, fence=fence) == "done"
    (row,) = toy.rows()
    assert (row["id"], row["lease_token"], row["claims"], row["failures"]) == (task_id, None, 0, {})
    assert row["due_at"] <= toy.database.row("select clock_timestamp() as at")["at"]
    assert await toy.run(task_id, run, fence=fence) == "done"
    assert (runs, toy.rows()) == (2, [])


async def test_again_waits_and_counts_nothing(toy: Outbox) -> None:
    task_id = toy.add()

    async def run(_: WorkerContext, __: Task) -> Outcome:
        return Again(after_seconds=60)

    for _ in range(12):
        assert await toy.run(task_id, run) == "again"
    (row,) = toy.rows()
    assert (row["claims"], row["failures"], row["last_error"]) == (0, {}, None)
    assert row["due_at"] > toy.database.row("select now() + interval '50 s' as at")["at"]
    assert await toy.run(task_id, nothing) == "done"


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome", "failures"),
    [
        (errors.NotFoundError(kind="generation"), "dead", {}),
        (errors.TemporarilyUnavailableError(what="storage"), "retry", {"absent": 1}),
        (LeaseLostError(), "lease_lost", {}),
        (PermanentError("no such call"), "dead", {}),
        (RetryableError("odd answer", kind=FailureKind.ERROR), "retry", {"error": 1}),
        (RetryableError("nobody there", kind=FailureKind.ABSENT), "retry", {"absent": 1}),
        (psycopg.OperationalError("server closed the connection"), "retry", {"absent": 1}),
        (psycopg.errors.DeadlockDetected("deadlock"), "retry", {"absent": 1}),
        (psycopg.errors.QueryCanceled("statement timeout"), "retry", {"error": 1}),
        (ZeroDivisionError("a bug"), "retry", {"error": 1}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_an_error_says_what_becomes_of_the_task(
    toy: Outbox, error: Exception, outcome: str, failures: dict[str, int]
) -> None:
    task_id = toy.add()
    assert await toy.run(task_id, raising(error)) == outcome
    if outcome == "dead":
        assert toy.rows() == []
        (letter,) = toy.letters()
        assert (letter["job"], letter["dedupe_key"]) == (JOB, "ring")
        assert letter["error"] in {str(error), repr(error)}
        return
    (row,) = toy.rows()
    assert row["failures"] == failures
    assert (row["lease_token"] is None) is (outcome == "retry")
    assert toy.letters() == []


def test_every_error_says_what_it_means_in_jobs() -> None:
    waiting = [errors.DomainError]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            assert vars(cls)["in_jobs"] in InJobs, cls
            waiting.append(cls)


async def test_only_its_own_errors_use_up_attempts(toy: Outbox) -> None:
    task_id = toy.add()
    absent = raising(RetryableError("away", kind=FailureKind.ABSENT))
    wrong = raising(RetryableError("wrong", kind=FailureKind.ERROR))
    for _ in range(30):
        assert await toy.run(task_id, absent, attempts_max=3) == "retry"
    assert await toy.run(task_id, wrong, attempts_max=3) == "retry"
    assert await toy.run(task_id, wrong, attempts_max=3) == "retry"
    assert await toy.run(task_id, absent, attempts_max=3) == "retry"
    assert await toy.run(task_id, wrong, attempts_max=3) == "dead"
    (letter,) = toy.letters()
    assert letter["failures"] == {"absent": 31, "error": 2}


async def test_nobody_is_waited_for_longer_than_a_day(toy: Outbox) -> None:
    task_id = toy.add()
    toy.database.clock.advance(hours=25)
    away = raising(RetryableError("away", kind=FailureKind.ABSENT))
    assert await toy.run(task_id, away) == "dead"


async def test_workers_that_die_of_a_task_make_it_a_dead_letter(toy: Outbox) -> None:
    task_id = toy.add()
    for _ in range(runner.CLAIMS_MAX):
        await toy.ctx.db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=60))
        toy.database.clock.advance_past("select lease_until from app.outbox")
    assert await toy.run(task_id, nothing) == "dead"
    (letter,) = toy.letters()
    assert (letter["claims"], letter["failures"]) == (runner.CLAIMS_MAX + 1, {})


async def test_a_word_of_it_forgives_the_claims(toy: Outbox) -> None:
    task_id = toy.add()
    for _ in range(runner.CLAIMS_MAX - 1):
        await toy.ctx.db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=60))
        toy.database.clock.advance_past("select lease_until from app.outbox")
    assert await toy.run(task_id, raising(RetryableError("x"))) == "retry"
    (row,) = toy.rows()
    assert row["claims"] == 0


async def test_the_pause_grows_to_its_most(toy: Outbox) -> None:
    task_id = toy.add()
    pauses = []
    for _ in range(6):
        await toy.run(
            task_id,
            raising(RetryableError("away", kind=FailureKind.ABSENT)),
            backoff=Backoff(seconds=10, seconds_max=40),
        )
        row = toy.database.row("select due_at - app.now() as pause from app.outbox")
        pauses.append(row["pause"].total_seconds())
    assert 4 < pauses[0] <= 10
    assert all(19 < pause <= 40 for pause in pauses[3:])


async def test_a_vendor_may_say_how_long(toy: Outbox) -> None:
    task_id = toy.add()
    await toy.run(task_id, raising(RetryableError("busy", retry_after_seconds=300)))
    row = toy.database.row("select due_at - app.now() as pause from app.outbox")
    assert 290 < row["pause"].total_seconds() <= 300


async def test_a_failure_does_not_delay_what_was_wanted_meanwhile(toy: Outbox) -> None:
    task_id = toy.add()

    async def run(_: WorkerContext, __: Task) -> Outcome:
        toy.add()
        raise RetryableError("busy", retry_after_seconds=300)

    assert await toy.run(task_id, run) == "retry"
    row = toy.database.row("select due_at <= app.now() as is_due from app.outbox")
    assert row["is_due"]


async def test_a_job_that_never_returns_is_a_failed_try(toy: Outbox) -> None:
    """Its lease is renewed as long as it runs: nobody else would ever take the task over."""
    task_id = toy.add()
    held: list[bool] = []

    async def run(ctx: WorkerContext, _: Task) -> Outcome:
        async def work(conn: Connection) -> None:
            await conn.execute("select pg_advisory_xact_lock(1)")
            held.append(True)
            await conn.execute("select pg_sleep(60)")

        await ctx.db.run(work)
        return DONE

    assert await toy.run(task_id, run, deadline_seconds=0.5) == "retry"
    assert held == [True]
    (row,) = toy.rows()
    assert (row["failures"], row["lease_token"]) == ({"error": 1}, None)
    assert row["last_error"].startswith("TimeoutError")
    assert toy.database.row("select pg_try_advisory_lock(1) as is_free")["is_free"]
    assert await toy.run(task_id, nothing) == "done"


# --- dead letters --------------------------------------------------------------------------------


async def test_the_subject_ends_with_the_letter(toy: Outbox) -> None:
    seen: list[Task] = []

    async def on_dead(conn: Connection, task: Task) -> None:
        seen.append(task)
        await conn.execute("select set_config('app.request_id', 'dead', true)")

    task_id = toy.add()
    assert await toy.run(task_id, raising(PermanentError("x")), on_dead=on_dead) == "dead"
    assert [task.id for task in seen] == [task_id]


async def test_a_subject_that_cannot_be_ended_is_said_on_the_letter(toy: Outbox) -> None:
    async def on_dead(conn: Connection, _: Task) -> None:
        await conn.execute("insert into app.metric_counters values ('toy', '{}', 1)")
        raise errors.NotFoundError(kind="ring")

    task_id = toy.add()
    assert await toy.run(task_id, raising(PermanentError("x")), on_dead=on_dead) == "dead"
    (letter,) = toy.letters()
    assert "NotFoundError" in letter["error"]
    assert toy.database.rows("select from app.metric_counters where name = 'toy'") == []
    assert toy.rows() == []


async def test_a_lost_lease_buries_nothing(toy: Outbox) -> None:
    task_id = toy.add()

    async def run(_: WorkerContext, task: Task) -> Outcome:
        toy.database.clock.advance_past("select lease_until from app.outbox")
        await toy.ctx.db.run(lambda conn: outbox.claim(conn, task.id, lease_seconds=60))
        raise PermanentError("too late")

    async def on_dead(conn: Connection, _: Task) -> None:
        await conn.execute("insert into app.metric_counters values ('toy', '{}', 1)")

    assert await toy.run(task_id, run, on_dead=on_dead) == "lease_lost"
    assert toy.letters() == []
    assert toy.database.rows("select from app.metric_counters where name = 'toy'") == []
    assert len(toy.rows()) == 1


async def test_what_was_wanted_of_a_dead_task_runs_all_the_same(toy: Outbox) -> None:
    task_id = toy.add()

    async def run(_: WorkerContext, __: Task) -> Outcome:
        toy.add()
        raise PermanentError("the first is hopeless")

    assert await toy.run(task_id, run) == "dead"
    assert len(toy.letters()) == 1
    (row,) = toy.rows()
    assert (row["lease_token"], row["failures"]) == (None, {})
    assert await toy.run(task_id, raising(PermanentError("so is the second"))) == "dead"
    assert len(toy.letters()) == 2
    assert toy.rows() == []


@pytest.mark.parametrize("key", ["ring", None])
async def test_replaying_a_letter_twice_makes_one_task(toy: Outbox, key: str | None) -> None:
    await toy.run(toy.add(key), raising(PermanentError("x")))
    (letter,) = toy.letters()
    claims = json.dumps(admin_claims(toy.database))

    def replay() -> uuid.UUID:
        row = toy.database.row(
            "with claims as materialized (select set_config('request.jwt.claims', %s, false) as it)"
            " select app.replay_dead_letter(%s) as id from claims where it is not null",
            (claims, letter["id"]),
        )
        task_id: uuid.UUID = row["id"]
        return task_id

    first = replay()
    assert replay() == first
    assert [row["id"] for row in toy.rows()] == [first]
    assert await toy.run(first, nothing) == "done"
    assert replay() == first, "what was replayed and done stays done"
    assert toy.rows() == []


async def test_a_lease_of_its_own(toy: Outbox) -> None:
    task_id = toy.add()
    task = await toy.ctx.db.run(
        lambda conn: outbox.claim(conn, task_id, lease_seconds=60, leases={JOB: 900})
    )
    assert task is not None
    row = toy.database.row("select lease_until - now() as lease from app.outbox")
    assert 800 < row["lease"].total_seconds() <= 900


async def test_cancelled_is_not_failed(toy: Outbox) -> None:
    """A process that shuts down ends its coroutines; the lease gives the task back."""
    task_id = toy.add()
    started = asyncio.Event()

    async def run(_: WorkerContext, __: Task) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        return DONE

    running = asyncio.create_task(toy.run(task_id, run))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (row,) = toy.rows()
    assert (row["failures"], row["claims"]) == ({}, 1)
