"""Polls calls that are due. A webhook only starts a collect sooner; polling finds every end.

Each poll has a place of its own and ends by itself: one that hangs delays no other. Calls that
nobody waits for any more (abandoned) have places of their own, however many they are.
"""

import structlog

from core.db import Connection
from core.generations.pipeline import queries
from core.generations.pipeline.fail import UNKNOWN_MAX, lose_call
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import ProviderCall
from core.generations.providers import accounts
from core.generations.providers.types import (
    Completed,
    InProgress,
    InQueue,
    Unknown,
    Unreachable,
)
from core.places import Places
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

log = structlog.get_logger()

_ENDED_AT_ONCE = 1_000


async def poll_due(tools: PipelineTools) -> int:
    """Starts a poll of each call that is due, as far as there are places; returns how many."""
    return await _start_polls(tools, tools.poll_places, abandoned=False) + await _start_polls(
        tools, tools.abandoned_poll_places, abandoned=True
    )


async def end_polls(tools: PipelineTools, _: Task) -> Outcome:
    """`provider_calls.end_polls` {}: calls older than a day, which no poll put off for good because
    no process has a key of their account any more."""
    while (
        await tools.db.run(lambda conn: queries.end_old_polls(conn, limit=_ENDED_AT_ONCE))
        == _ENDED_AT_ONCE
    ):
        pass
    return DONE


async def _start_polls(tools: PipelineTools, places: Places, *, abandoned: bool) -> int:
    if not places.free:
        return 0
    calls = await tools.db.run(
        lambda conn: queries.claim_polls(
            conn,
            accounts.fingerprints_of(tools.providers),
            seconds_max=tools.settings.provider_poll_seconds_max,
            abandoned=abandoned,
            limit=places.free,
        )
    )
    for call in calls:
        tools.start_background(places.hold(_poll(tools, call)), name=f"poll {call.id}")
    return len(calls)


async def _poll(tools: PipelineTools, call: ProviderCall) -> None:
    if not call.address.is_known:
        return
    outcome = await tools.providers[call.provider].fetch_status(call.address)
    match outcome:
        case Completed():
            await _want_collect(tools, call)
        case Unknown():
            if await tools.db.run(lambda conn: queries.count_unknown(conn, call.id)) >= UNKNOWN_MAX:
                await lose_call(tools, call.id, outcome)
                tools.dispatch_wanted.set()
        case InQueue() | InProgress() if call.unknown_polls:
            await tools.db.run(lambda conn: queries.forget_unknown(conn, call.id))
        case Unreachable():
            log.info("provider.status_unreachable", call_id=str(call.id), detail=outcome.detail)
            if outcome.is_limited:
                await accounts.pause_looks(
                    tools.db, call.account_id, outcome, settings=tools.settings
                )
        case _:
            pass


async def _want_collect(tools: PipelineTools, call: ProviderCall) -> None:
    async def work(conn: Connection) -> None:
        if call.unknown_polls:
            await queries.forget_unknown(conn, call.id)
        await queries.ensure_collect(conn, call.id)

    await tools.db.run(work)
