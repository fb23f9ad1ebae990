"""Asking the provider to stop a call. Money moves on the end that is verified, not before."""

import uuid

from core.db import Connection
from core.errors import PermanentError, RetryableError
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import OPEN_CALLS
from core.generations.providers.types import Unreachable
from core.tasks import outbox
from core.tasks.outbox import Task


async def cancel_call(tools: PipelineTools, task: Task) -> None:
    """The `provider_call.cancel` task."""
    call_id = uuid.UUID(task.args["call_id"])
    call = await tools.db.run(lambda conn: queries.find_call(conn, call_id))
    if call is None:
        raise PermanentError("no such provider call")
    # Without a request id there is nothing to name yet: record_accepted wants it cancelled then.
    is_asked = call.address.is_known and call.state in OPEN_CALLS
    if is_asked:
        outcome = await tools.providers[call.provider].cancel(call.address)
        if isinstance(outcome, Unreachable):
            raise RetryableError(f"cancel unreachable: {outcome.reason}")

    async def work(conn: Connection) -> None:
        # The call before the task, in the order in which the SQL functions lock.
        now = await queries.find_call(conn, call_id, lock=True)
        if now is not None and not is_asked and now.request_id != call.request_id:
            # Whoever recorded it meanwhile found this task and added no other.
            raise RetryableError("the call was accepted meanwhile", retry_after_seconds=0.1)
        await queries.poll_now(conn, call_id)
        if is_asked and not tools.settings.provider_polling:
            # Of a cancelled request no webhook may come.
            await queries.ensure_collect(conn, call_id)
        await outbox.complete(conn, task.lease_token)

    await tools.db.run(work)
