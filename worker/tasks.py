"""The registry of jobs, and the wrapper that RQ calls: claim, run, and what becomes of errors.

`run` and the job names are wire format: a job is changed by adding a second one beside it.
"""

import asyncio
import contextlib
import random
import threading
import time
import uuid
from collections.abc import Awaitable, Callable

import structlog

from core import errors
from core.errors import InJobs
from core.tasks import outbox
from core.tasks.outbox import Task
from worker.context import WorkerContext
from worker.jobs import credits as credit_jobs
from worker.jobs import generations as generation_jobs
from worker.jobs import housekeeping as housekeeping_jobs
from worker.jobs import payments as payment_jobs
from worker.jobs import uploads as upload_jobs

log = structlog.get_logger()

Job = Callable[[WorkerContext, Task], Awaitable[None]]

REGISTRY: dict[str, Job] = {
    "credits.expire": credit_jobs.expire,
    "credits.reconcile": credit_jobs.reconcile,
    "generation.dispatch": generation_jobs.dispatch,
    "housekeeping.purge": housekeeping_jobs.purge,
    "late_images.expire": generation_jobs.expire_late_images,
    "payment.sync": payment_jobs.sync,
    "payments.compare_day": payment_jobs.compare_day,
    "payments.fetch_events": payment_jobs.fetch_events,
    "payments.prune_events": payment_jobs.prune_events,
    "payments.sync_completed": payment_jobs.sync_completed,
    "payments.sync_unsettled": payment_jobs.sync_unsettled,
    "provider_call.cancel": generation_jobs.cancel_call,
    "provider_call.collect": generation_jobs.collect,
    "refund.create": payment_jobs.make_return,
    "stripe_event.handle": payment_jobs.handle_event,
    "upload.erase": upload_jobs.erase,
    "upload.normalise": upload_jobs.normalise,
    "uploads.expire": upload_jobs.expire,
}

ATTEMPTS_MAX = 8
# A task that was claimed this often without a word ends its process each time.
CLAIMS_MAX = 20
_BACKOFF_SECONDS = 1.0
_BACKOFF_SECONDS_MAX = 60.0


class Runtime:
    """Where RQ's threads hand their work to: the process's one event loop.

    A task waits for networks most of its time, so a thread hands it over and takes the next, up
    to the number of tasks that a process may have in hand: their images are in its memory.
    """

    def __init__(self, ctx: WorkerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._ctx = ctx
        self._loop = loop
        self._room = threading.BoundedSemaphore(ctx.settings.worker_tasks_at_once)

    def hand_over(self, task_id: uuid.UUID) -> None:
        """Called on a thread; returns as soon as there is room for one more task."""
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._begin, task_id)

    def _begin(self, task_id: uuid.UUID) -> None:
        self._ctx.start_background(self._execute(task_id), name=f"task {task_id}")

    async def _execute(self, task_id: uuid.UUID) -> None:
        try:
            await execute(self._ctx, task_id)
        finally:
            self._room.release()


_runtimes: list[Runtime] = []


def start_runtime(runtime: Runtime) -> None:
    """RQ imports `run` by its path, so the process's runtime has to be found from this module."""
    assert not _runtimes, "one runtime a process"
    _runtimes.append(runtime)


def stop_runtime() -> None:
    _runtimes.clear()


def run(outbox_id: str) -> str:
    """What RQ calls, on a thread. Returns a word for RQ's own record; raises nothing of a job."""
    _runtimes[0].hand_over(uuid.UUID(outbox_id))
    return "handed over"


async def execute(ctx: WorkerContext, task_id: uuid.UUID) -> str:
    """Claims one task and runs its job under the lease. A second delivery costs one query."""
    lease_seconds = ctx.settings.task_lease_seconds
    task = await ctx.db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=lease_seconds))
    if task is None:
        return "gone"
    with structlog.contextvars.bound_contextvars(request_id=task.request_id):
        started = time.monotonic()
        if task.attempts > CLAIMS_MAX:
            outcome = await _bury(ctx, task, f"claimed {CLAIMS_MAX} times and never ended")
        else:
            outcome = await _run_job(ctx, task)
        log.info(
            "job.finished",
            job=task.job,
            task_id=str(task.id),
            attempt=task.attempts,
            outcome=outcome,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )
    ctx.counters.add("jewelshot_jobs_total", job=task.job, outcome=outcome)
    return outcome


async def _run_job(ctx: WorkerContext, task: Task) -> str:
    job = REGISTRY.get(task.job)
    if job is None:
        return await _bury(ctx, task, f"unknown job {task.job!r}")
    renewal = asyncio.create_task(_renew(ctx, task))
    try:
        await job(ctx, task)
    except Exception as error:  # noqa: BLE001  the process's edge
        return await _failed(ctx, task, error)
    finally:
        renewal.cancel()
    return "done"


async def _failed(ctx: WorkerContext, task: Task, error: Exception) -> str:
    """An error that nobody declared is an attempt and an alert."""
    failure = errors.job_failure(error)
    if failure is None:
        log.error("job.unexpected_error", job=task.job, task_id=str(task.id), exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        return await _try_later(ctx, task, "error", reason, None)
    match failure.in_jobs:
        case InJobs.STOP:
            return "lease_lost"
        case InJobs.NEVER:
            return await _bury(ctx, task, failure.reason)
        case InJobs.BACKOFF:
            return await _try_later(
                ctx, task, failure.kind, failure.reason, failure.retry_after_seconds
            )


async def _renew(ctx: WorkerContext, task: Task) -> None:
    """Keeps the lease while the job runs; when it is lost the job's own writes will say so."""
    lease_seconds = ctx.settings.task_lease_seconds
    held = True
    while held:
        await asyncio.sleep(lease_seconds / 3)
        with contextlib.suppress(Exception):  # a database that is away is tried again in time
            held = await ctx.db.run(
                lambda conn: outbox.renew(conn, task.lease_token, lease_seconds=lease_seconds)
            )


async def _try_later(
    ctx: WorkerContext, task: Task, kind: str, reason: str, retry_after_seconds: float | None
) -> str:
    if task.attempts >= ATTEMPTS_MAX:
        return await _bury(ctx, task, reason)
    backoff = min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS * 2 ** (task.attempts - 1))
    delay = retry_after_seconds or backoff * random.uniform(0.5, 1)  # noqa: S311  jitter only
    await ctx.db.run(
        lambda conn: outbox.release(
            conn, task.lease_token, delay_seconds=delay, kind=kind, error=reason
        )
    )
    log.warning("job.retry", job=task.job, task_id=str(task.id), reason=reason)
    return "retry"


async def _bury(ctx: WorkerContext, task: Task, reason: str) -> str:
    """A dead letter and an alert; what the task was for ends in the same transaction."""
    try:
        change = await ctx.db.run(lambda conn: outbox.bury(conn, task.lease_token, reason))
    except errors.LeaseLostError:
        return "lease_lost"
    log.error("job.dead_letter", job=task.job, task_id=str(task.id), reason=reason)
    await ctx.changes.publish(change)
    return "dead"
