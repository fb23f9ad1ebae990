"""From a call that ended at the provider to the next state of its generation.

The HTTP code of the result decides. Nothing here is decided twice: the generation's end, its
money and the task's end are one statement, `finish_generation`, under the task's lease.
"""

import time
import uuid
from datetime import UTC, datetime

import structlog

from core.errors import FailureKind, RetryableError
from core.generations.pipeline import queries
from core.generations.pipeline.deliver import deliver
from core.generations.pipeline.fail import fail_call
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import OPEN_CALLS, CallResult, Role
from core.generations.providers import accounts
from core.generations.providers.types import (
    Failure,
    Output,
    ResultOutcome,
    StillRunning,
    Unreachable,
)
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

log = structlog.get_logger()

_NOT_YET_SECONDS = 2.0
# A provider that is unavailable for longer is tried less often: an image that may be paid for must
# not become a dead letter while its generation has time.
_FETCH_ATTEMPTS_MAX = 5


async def collect(tools: PipelineTools, task: Task) -> Outcome:
    """The `provider_call.collect` task: fetch one call's result and act on it."""
    call_id = uuid.UUID(task.args["call_id"])
    call = await tools.db.run(lambda conn: queries.begin_collect(conn, call_id))
    if call.call_state not in OPEN_CALLS:
        return DONE
    if call.role is Role.CURRENT:
        await tools.changes.publish(call.change)
    started = time.monotonic()
    outcome = await _fetch(tools, call)
    match outcome:
        case Unreachable():
            if outcome.is_limited:
                await accounts.pause_looks(
                    tools.db, call.account_id, outcome, settings=tools.settings
                )
            if tools.settings.provider_polling and task.tries >= _FETCH_ATTEMPTS_MAX:
                seconds = tools.settings.provider_poll_seconds_max
                await _resume_polling(tools, task, call_id, seconds=seconds)
                return DONE
            raise RetryableError(
                f"result unreachable: {outcome.detail}",
                kind=FailureKind.ABSENT,
                retry_after_seconds=outcome.retry_after_seconds,
            )
        case StillRunning():
            await _resume_polling(tools, task, call_id, seconds=_NOT_YET_SECONDS)
            return DONE
        case Failure():
            await fail_call(tools, call, outcome, lease_token=task.lease_token)
        case Output():
            await deliver(tools, task, call, outcome)
    _observe(tools, call, seconds=time.monotonic() - started)
    tools.dispatch_wanted.set()
    return DONE


async def _fetch(tools: PipelineTools, call: CallResult) -> ResultOutcome:
    if not call.address.is_known:
        raise RetryableError("neither a result URL nor a request id is known yet")
    outcome = await tools.providers[call.provider].fetch_result(call.address)
    tools.counters.add(
        "jewelshot_provider_results_total",
        account=call.account,
        outcome=type(outcome).__name__.lower(),
    )
    return outcome


async def _resume_polling(
    tools: PipelineTools, task: Task, call_id: uuid.UUID, *, seconds: float
) -> None:
    """Back to running: the poll loop finds the end, or the deadline ends it."""
    change = await tools.db.run(
        lambda conn: queries.resume_polling(conn, call_id, task.lease_token, poll_seconds=seconds)
    )
    await tools.changes.publish(change)


def _observe(tools: PipelineTools, call: CallResult, *, seconds: float) -> None:
    tools.counters.observe("jewelshot_collect_seconds", seconds)
    tools.counters.observe(
        "jewelshot_provider_call_seconds",
        (datetime.now(UTC) - call.call_created_at).total_seconds(),
        account=call.account,
        endpoint=call.endpoint,
    )
