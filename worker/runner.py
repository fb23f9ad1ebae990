"""What a wake-up leads to: claim the task, run its job under the lease, end the task or its try.

A job returns or raises; only this module decides whether the task is then completed, released for
another try, or made a dead letter.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping

import psycopg
import structlog

from core import errors
from core.changes import Change
from core.db import Connection, may_pass, savepoint
from core.errors import FailureKind, InJobs, JobFailure
from core.tasks import outbox
from core.tasks.errors import LeaseLostError
from core.tasks.jobs import Again, Job
from core.tasks.outbox import Task
from core.tasks.queues import Queue
from worker.context import WorkerContext
from worker.registry import JOBS
from worker.slots import Slots

log = structlog.get_logger()

# A task that was claimed this often without an outcome kills its process each time.
CLAIMS_MAX = 20
# When a vendor or the database has been unavailable for longer than this, the result is of no use
# any more: a scheduled poll, or the deadline of the subject, has taken over long ago.
ABSENT_SECONDS_MAX = 86_400

_LEASES = {name: job.lease_seconds for name, job in JOBS.items() if job.lease_seconds is not None}


class Runtime:
    """Runs tasks on the one event loop of the process, for RQ's threads.

    A task waits for networks most of its time, so a thread hands it over and takes the next, as
    far as its queue has slots.
    """

    def __init__(self, ctx: WorkerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._ctx = ctx
        self._loop = loop
        self.slots = Slots(ctx.settings)

    def hand_over(self, queue: Queue, task_id: uuid.UUID) -> None:
        """Called on a thread that has taken a slot of the queue, which the task holds from now."""
        self._loop.call_soon_threadsafe(self._begin, queue, task_id)

    def _begin(self, queue: Queue, task_id: uuid.UUID) -> None:
        self._ctx.start_background(self._execute(queue, task_id), name=f"task {task_id}")

    async def _execute(self, queue: Queue, task_id: uuid.UUID) -> None:
        try:
            await execute(self._ctx, task_id)
        finally:
            self.slots.give_back(queue)


async def execute(
    ctx: WorkerContext, task_id: uuid.UUID, *, jobs: Mapping[str, Job[WorkerContext]] = JOBS
) -> str:
    """Claims one task and runs its job under the lease. A second delivery costs one query.

    Returns what became of it: gone, done, again, retry, dead or lease_lost.
    """
    lease_seconds = ctx.settings.task_lease_seconds
    task = await ctx.db.run(
        lambda conn: outbox.claim(conn, task_id, lease_seconds=lease_seconds, leases=_LEASES)
    )
    if task is None:
        return "gone"
    with structlog.contextvars.bound_contextvars(request_id=task.request_id):
        started = time.monotonic()
        outcome = await _carry_out(ctx, task, jobs.get(task.job))
        log.info(
            "job.finished",
            job=task.job,
            task_id=str(task.id),
            claims=task.claims,
            outcome=outcome,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )
    ctx.counters.add("jewelshot_jobs_total", job=task.job, outcome=outcome)
    return outcome


async def _carry_out(ctx: WorkerContext, task: Task, job: Job[WorkerContext] | None) -> str:
    if job is None:
        return await give_up(ctx, task, None, f"unknown job {task.job!r}")
    if task.claims > CLAIMS_MAX:
        return await give_up(ctx, task, job, f"claimed {CLAIMS_MAX} times and never ended")
    renewal = asyncio.create_task(_renew(ctx, task, job))
    try:
        async with asyncio.timeout(job.deadline_seconds):
            outcome = await job.run(ctx, task)
    except Exception as error:  # noqa: BLE001  the process's edge: decided by _failed
        return await _failed(ctx, task, job, error)
    finally:
        renewal.cancel()
        is_ended = ctx.queue.take_ended(task.lease_token)
    if isinstance(outcome, Again):
        await _release(ctx, task, delay_seconds=outcome.after_seconds)
        return "again"
    if not is_ended:
        # What the job did not end in the transaction of its effect, or whose end was not noted.
        await ctx.db.run(lambda conn: outbox.complete(conn, task.lease_token))
    return "done"


async def _renew(ctx: WorkerContext, task: Task, job: Job[WorkerContext]) -> None:
    """Renews the lease while the job runs; if it is lost, the job's own writes raise."""
    lease_seconds = job.lease_seconds or ctx.settings.task_lease_seconds
    held = True
    while held:
        await asyncio.sleep(lease_seconds / 3)
        with contextlib.suppress(
            Exception
        ):  # an unavailable database is tried again before the lease ends
            held = await ctx.db.run(
                lambda conn: outbox.renew(conn, task.lease_token, lease_seconds=lease_seconds)
            )


def _failure_of(error: Exception) -> JobFailure:
    declared = errors.job_failure(error)
    if declared is not None:
        return declared
    reason = f"{type(error).__name__}: {error}"
    if may_pass(error):
        return JobFailure(InJobs.BACKOFF, FailureKind.ABSENT, reason)
    log.error("job.unexpected_error", exc_info=error)
    return JobFailure(InJobs.BACKOFF, FailureKind.ERROR, reason)


async def _failed(ctx: WorkerContext, task: Task, job: Job[WorkerContext], error: Exception) -> str:
    """Another try, a dead letter, or nothing: by the error's class and the job's attempts."""
    failure = _failure_of(error)
    match failure.in_jobs:
        case InJobs.STOP:
            return "lease_lost"
        case InJobs.NEVER:
            return await give_up(ctx, task, job, failure.reason)
        case InJobs.BACKOFF:
            count = task.failures.get(failure.kind, 0) + 1
            if _is_used_up(task, job, failure.kind, count):
                return await give_up(ctx, task, job, failure.reason)
            await _release(
                ctx,
                task,
                delay_seconds=failure.retry_after_seconds or job.backoff.pause_seconds(count),
                failure=failure.kind,
                error=failure.reason,
            )
            log.warning("job.retry", job=task.job, task_id=str(task.id), reason=failure.reason)
            return "retry"


def _is_used_up(task: Task, job: Job[WorkerContext], kind: FailureKind, count: int) -> bool:
    if kind is FailureKind.ABSENT:
        return task.age_seconds > ABSENT_SECONDS_MAX
    return count >= job.attempts_max


async def _release(
    ctx: WorkerContext,
    task: Task,
    *,
    delay_seconds: float,
    failure: FailureKind | None = None,
    error: str | None = None,
) -> None:
    """If this cannot be written either, the lease ends by itself."""
    with contextlib.suppress(psycopg.OperationalError):
        await ctx.db.run(
            lambda conn: outbox.release(
                conn, task.lease_token, delay_seconds=delay_seconds, failure=failure, error=error
            )
        )


async def give_up(
    ctx: WorkerContext, task: Task, job: Job[WorkerContext] | None, reason: str
) -> str:
    """A dead letter and an alarm; what the task was for ends in the same transaction."""

    async def work(conn: Connection) -> Change | None:
        change, note = None, reason
        if job is not None and job.on_dead is not None:
            try:
                async with savepoint(conn):
                    change = await job.on_dead(conn, task)
            except Exception as error:  # the letter is written all the same
                log.exception("job.on_dead_failed", job=task.job, task_id=str(task.id))
                note = f"{reason}; and its subject could not be ended: {type(error).__name__}"
        await outbox.dead_letter(conn, task.lease_token, note)
        return change

    try:
        change = await ctx.db.run(work)
    except LeaseLostError:
        return "lease_lost"
    log.error("job.dead_letter", job=task.job, task_id=str(task.id), reason=reason)
    await ctx.changes.publish(change)
    return "dead"
