"""Looks after calls that nobody told us about. A webhook is a hint; this finds the rest."""

import asyncio
import uuid
from typing import Any

import structlog

from core.db import Connection
from core.generations import endings as problems
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.providers import accounts
from core.generations.providers import types as fal
from core.generations.types import CallEnd, CallState, Role
from core.tasks.outbox import DueTask

log = structlog.get_logger()

_CALLS_AT_ONCE = 50
# One 404 right after the submit may be a replica that lags; two in a row are an answer.
_UNKNOWN_LOOKS = 2


async def poll_due(tools: PipelineTools) -> int:
    """One round over the calls whose look is due; returns how many were looked at."""
    calls = await tools.db.run(
        lambda conn: queries.claim_polls(
            conn,
            list(tools.fal.fingerprints),
            seconds_max=tools.settings.provider_poll_seconds_max,
            limit=_CALLS_AT_ONCE,
        )
    )
    await asyncio.gather(*(_look(tools, call) for call in calls))
    return len(calls)


async def _look(tools: PipelineTools, call: dict[str, Any]) -> None:
    status_url = call["status_url"]
    if status_url is None:
        if call["request_id"] is None:
            return
        status_url = tools.fal.derive_urls(call["endpoint"], call["request_id"])[0]
    outcome = await tools.fal.status(fingerprint=call["key_fingerprint"], status_url=status_url)
    match outcome:
        case fal.Completed():
            await _want_collect(tools, call["id"])
        case fal.Unknown() if call["polls"] >= _UNKNOWN_LOOKS:
            await _lost(tools, call["id"])
        case fal.Unreachable():
            log.info("provider.status_unreachable", call_id=str(call["id"]), reason=outcome.reason)
            await accounts.note_unreachable(tools, call["account_id"], outcome)
        case _:
            pass


async def _want_collect(tools: PipelineTools, call_id: uuid.UUID) -> None:
    task_id = await tools.db.run(lambda conn: queries.ensure_collect(conn, call_id))
    if task_id is not None:
        await tools.queue.enqueue(DueTask(id=task_id, queue="interactive", attempts=0))


async def _lost(tools: PipelineTools, call_id: uuid.UUID) -> None:
    """The provider does not know the request: it surely does not run, so it may be sent again."""
    end = CallEnd(state=CallState.LOST, http_status=404, error_type="request_not_found")
    found = await tools.db.run(lambda conn: queries.begin_collect(conn, call_id))

    async def requeue(conn: Connection) -> queries.Change | None:
        return await queries.requeue(
            conn,
            call_id,
            None,
            end,
            delay_seconds=0,
            attempts_max=tools.settings.provider_attempts_max,
        )

    # A transaction of its own: it would come to the account with the generation's lock held.
    async def finish(conn: Connection) -> queries.Change | None:
        problem = problems.OUT_OF_TIME if found.is_given_up else problems.PROVIDER_FAILED
        if found.cancel_requested:
            problem = problems.CANCELLED
        return await queries.finish(
            conn,
            found.generation_id,
            None,
            "cancelled" if found.cancel_requested else "failed",
            call_id=call_id,
            end=end,
            problem=problem,
        )

    if found.role is Role.CURRENT:
        change = await tools.db.run(requeue) or await tools.db.run(finish)
        await tools.changes.publish(change)
    else:
        await tools.db.run(lambda conn: queries.close_call(conn, call_id, None, end))
    tools.dispatch_wanted.set()
