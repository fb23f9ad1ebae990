"""Cancels a call at the provider. Money moves on the verified end, not before."""

import uuid

from core.db import Connection
from core.errors import FailureKind, PermanentError, RetryableError
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import OPEN_CALLS
from core.generations.providers.types import Unreachable
from core.generations.types import CallState
from core.places import within_share
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

# Nobody waits for it: it only saves what the rest of the run would cost.
_ABANDONED_TRIES_MAX = 6


async def cancel_call(tools: PipelineTools, task: Task) -> Outcome:
    """The `provider_call.cancel` task."""
    call_id = uuid.UUID(task.args["call_id"])
    call = await tools.db.run(lambda conn: queries.find_call(conn, call_id))
    if call is None:
        raise PermanentError("no such provider call")
    # Without a request id there is nothing to cancel yet; record_accepted adds this task again.
    is_requested = call.address.is_known and call.state in OPEN_CALLS
    if is_requested:
        asking = tools.providers[call.provider].cancel(call.address)
        outcome = await within_share(tools.slow_cancels, call.account_id, asking)
        is_worth_while = call.state is CallState.ACCEPTED or task.tries < _ABANDONED_TRIES_MAX
        if isinstance(outcome, Unreachable) and is_worth_while:
            raise RetryableError(
                f"cancel unreachable: {outcome.detail}",
                kind=FailureKind.ABSENT,
                retry_after_seconds=outcome.retry_after_seconds,
            )

    async def work(conn: Connection) -> None:
        await queries.poll_now(conn, call_id)
        if is_requested and not tools.settings.provider_polling:
            # There may be no webhook for a cancelled request.
            await queries.ensure_collect(conn, call_id)

    await tools.db.run(work)
    return DONE
