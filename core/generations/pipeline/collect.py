"""From a call that ended at the provider to the next state of its generation.

The HTTP code of the result decides. Nothing here is decided twice: the generation's end, its
money and the task's end are one statement, `finish_generation`, under the task's lease.
"""

import time
import uuid

import structlog

from core.errors import FailureKind, RetryableError
from core.generations.pipeline import queries
from core.generations.pipeline.deliver import NotThereYet, deliver
from core.generations.pipeline.fail import UNKNOWN_MAX, fail_call, lose_call
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import OPEN_CALLS, CallResult, Role
from core.generations.providers import accounts
from core.generations.providers.types import (
    Failure,
    Output,
    ResultOutcome,
    StillRunning,
    Unknown,
    Unreachable,
)
from core.places import within_share
from core.tasks.jobs import DONE, Again, Outcome
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
    return await _act_on(tools, task, call, await _fetch(tools, call))


async def _act_on(
    tools: PipelineTools, task: Task, call: CallResult, outcome: ResultOutcome
) -> Outcome:
    started = time.monotonic()
    call_id = call.call_id
    match outcome:
        case Unreachable():
            if outcome.is_limited:
                await accounts.pause_looks(
                    tools.db, call.account_id, outcome, settings=tools.settings
                )
            return await _fetch_later(tools, task, call, outcome)
        case StillRunning():
            return await look_again(tools, task, call, seconds=_NOT_YET_SECONDS)
        case Unknown():
            if await tools.db.run(lambda conn: queries.count_unknown(conn, call_id)) < UNKNOWN_MAX:
                return Again(_NOT_YET_SECONDS)
            await lose_call(tools, call_id, outcome, lease_token=task.lease_token)
        case Failure():
            await fail_call(tools, call, outcome, lease_token=task.lease_token)
        case Output():
            try:
                await deliver(tools, task, call, outcome)
            except NotThereYet as later:
                return await _deliver_later(tools, task, call, later)
    _observe(tools, call, seconds=time.monotonic() - started)
    tools.dispatch_wanted.set()
    return DONE


async def _fetch_later(
    tools: PipelineTools, task: Task, call: CallResult, outcome: Unreachable
) -> Outcome:
    """No answer about the request: soon again at first, then when its next poll is due."""
    is_over_to_polls = tools.settings.provider_polling and task.tries >= _FETCH_ATTEMPTS_MAX
    if is_over_to_polls or call.is_abandoned:
        return await look_again(tools, task, call, seconds=tools.settings.provider_poll_seconds_max)
    raise RetryableError(
        f"result unreachable: {outcome.detail}",
        kind=FailureKind.ABSENT,
        retry_after_seconds=outcome.retry_after_seconds,
    )


async def _deliver_later(
    tools: PipelineTools, task: Task, call: CallResult, later: NotThereYet
) -> Outcome:
    """A file that is away is waited for as long as somebody waits for its image."""
    if later.after_seconds is not None:
        return Again(later.after_seconds)
    if call.is_abandoned:
        return await look_again(tools, task, call, seconds=tools.settings.provider_poll_seconds_max)
    raise RetryableError(str(later), kind=FailureKind.ABSENT)


async def _fetch(tools: PipelineTools, call: CallResult) -> ResultOutcome:
    if not call.address.is_known:
        raise RetryableError("neither a result URL nor a request id is known yet")
    asking = tools.providers[call.provider].fetch_result(call.address)
    outcome = await within_share(tools.slow_answers, call.user_id, asking)
    tools.counters.add(
        "jewelshot_provider_results_total",
        account=call.account,
        outcome=type(outcome).__name__.lower(),
    )
    return outcome


async def look_again(
    tools: PipelineTools, task: Task, call: CallResult, *, seconds: float
) -> Outcome:
    """Back to running: the poll loop finds the end, or the deadline ends it.

    Without that loop the task itself waits; for an abandoned call ever longer, and not for ever.
    """
    if tools.settings.provider_polling:
        change = await tools.db.run(
            lambda conn: queries.resume_polling(
                conn, call.call_id, task.lease_token, poll_seconds=seconds
            )
        )
        await tools.changes.publish(change)
        return DONE
    if call.abandoned_seconds is None:
        return Again(seconds)
    pause = queries.late_poll_seconds(call.abandoned_seconds, at_least=seconds)
    return DONE if pause is None else Again(pause)


def _observe(tools: PipelineTools, call: CallResult, *, seconds: float) -> None:
    tools.counters.observe("jewelshot_collect_seconds", seconds)
    tools.counters.observe(
        "jewelshot_provider_call_seconds",
        call.call_seconds + seconds,
        account=call.account,
        endpoint=call.endpoint,
    )
