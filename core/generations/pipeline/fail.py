"""A call that ended without an image: another attempt where that is safe, a refund otherwise."""

import uuid

import structlog

from core.changes import Change
from core.db import Connection
from core.generations.endings import Ending, ending_of_failure, ending_of_lost_call
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import CallEnd, CallResult, Role
from core.generations.providers.types import Failure, FailureCause, Unknown
from core.generations.types import FINISHED_STATES, CallState
from core.tasks.outbox import Task

log = structlog.get_logger()

# One 404 may be a replica that lags; two in a row are an answer.
UNKNOWN_MAX = 2
# Grows with the attempts: a model that has just failed may fail again at once.
_RETRY_DELAY_SECONDS = 2.0


async def fail_call(
    tools: PipelineTools, call: CallResult, failure: Failure, *, lease_token: uuid.UUID
) -> None:
    """Retries or ends what the provider reports as failed."""
    reason = failure.error_type or str(failure.http_status)
    tools.counters.add("jewelshot_provider_errors_total", account=call.account, error_type=reason)
    is_cancelled = failure.cause is FailureCause.CANCELLED
    may_retry = failure.is_retryable or (is_cancelled and not call.cancel_requested)
    await _end_call(
        tools,
        call,
        CallEnd(
            state=CallState.CANCELLED if is_cancelled else CallState.FAILED,
            http_status=failure.http_status,
            error_type=failure.error_type,
            error_detail=failure.detail,
            billable_units=units_of(failure.billable_units),
        ),
        ending_of_failure(
            failure,
            is_cancel_requested=call.cancel_requested,
            is_given_up=call.is_given_up,
            failures_before=call.attempts,
        ),
        lease_token=lease_token,
        retry_delay_seconds=_RETRY_DELAY_SECONDS * (call.attempts + 1) if may_retry else None,
    )


async def lose_call(
    tools: PipelineTools,
    call_id: uuid.UUID,
    unknown: Unknown,
    *,
    lease_token: uuid.UUID | None = None,
) -> None:
    """The provider does not know the request, twice in a row: it does not run, and if the provider
    knew where to look, it may be sent again. Without a lease, not one that is being collected."""
    call = await tools.db.run(
        lambda conn: queries.begin_loss(conn, call_id, is_collector=lease_token is not None)
    )
    if call is None:
        return
    await _end_call(
        tools,
        call,
        CallEnd(
            state=CallState.LOST,
            http_status=404,
            error_type="request_not_found" if unknown.is_gone else "path_not_found",
        ),
        ending_of_lost_call(
            is_cancel_requested=call.cancel_requested,
            is_given_up=call.is_given_up,
            failures_before=call.attempts,
        ),
        lease_token=lease_token,
        retry_delay_seconds=0 if unknown.is_gone else None,
    )


async def fail_uncollected(conn: Connection, task: Task) -> Change | None:
    """Ends a generation whose image could not be collected: its task is a dead letter."""
    call_id = uuid.UUID(task.args["call_id"])
    call = await queries.find_call(conn, call_id)
    if call is None:
        return None
    return await queries.end_without_image(
        conn,
        call.generation_id,
        None,
        Ending.DELIVERY_FAILED,
        call_id=call_id,
        end=CallEnd(state=CallState.ABANDONED, error_type="dead_letter"),
    )


async def _end_call(
    tools: PipelineTools,
    call: CallResult,
    end: CallEnd,
    ending: Ending,
    *,
    lease_token: uuid.UUID | None,
    retry_delay_seconds: float | None,
) -> None:
    """Ends the call; its generation is queued again after the delay if it may be, or ends too."""

    async def requeue(conn: Connection) -> Change | None:
        assert retry_delay_seconds is not None
        return await queries.requeue(
            conn,
            call.call_id,
            lease_token,
            end,
            delay_seconds=retry_delay_seconds,
            attempts_max=tools.settings.provider_attempts_max,
        )

    # A transaction of its own: after requeue it would lock the account with the generation held.
    async def finish(conn: Connection) -> Change | None:
        return await queries.end_without_image(
            conn, call.generation_id, lease_token, ending, call_id=call.call_id, end=end
        )

    if call.role is not Role.CURRENT:
        await tools.db.run(lambda conn: queries.close_call(conn, call.call_id, lease_token, end))
        return
    change = await tools.db.run(requeue) if retry_delay_seconds is not None else None
    if change is None:
        change = await tools.db.run(finish)
    await announce(tools, change, operation=call.operation)


async def announce(tools: PipelineTools, change: Change | None, *, operation: str) -> None:
    """After the commit: publishes the change, and counts the ends."""
    await tools.changes.publish(change)
    if change is not None and change.state in FINISHED_STATES:
        tools.counters.add(
            "jewelshot_generations_finished_total",
            operation=operation,
            state="late" if change.late else change.state,
        )


def units_of(billable_units: object) -> str | None:
    return None if billable_units is None else str(billable_units)
