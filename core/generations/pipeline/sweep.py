"""Ends what nothing else ends: submits without an answer, ambiguous calls past their grace, and
generations past their deadline."""

import functools
import time
from collections.abc import Awaitable, Callable

import psycopg

from core.changes import Change
from core.db import Connection, fetch_one
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.types import FINISHED_STATES

# Of one transaction: their owners' credits are locked until it ends, a few milliseconds a row.
_ROWS_AT_ONCE = 50
# Then the other loops' turn; the next tick goes on.
_SECONDS_MAX = 30.0
# One process sweeps calls at a time; the others skip their turn. Any constant: "sweep" in ASCII.
_SWEEP_LOCK = 0x7377656570

_Part = Callable[[Connection], Awaitable[list[Change]]]


async def sweep(tools: PipelineTools) -> int:
    """Rounds until nothing is left; returns how many generations changed.

    Each round is a transaction of its own. What falls together, ends together: ten thousand
    deadlines of one minute within seconds, shared by the processes. A call that cannot be swept
    stops no clock.

    Raises: what stopped one of the parts, after the other's turn.
    """
    changed = 0
    until = time.monotonic() + _SECONDS_MAX
    stopped: psycopg.Error | None = None
    for part in (functools.partial(_sweep_calls, tools), _sweep_deadlines):
        try:
            while (found := await _round(tools, part)) and time.monotonic() < until:
                changed += found
        except psycopg.Error as error:
            stopped = error
    if changed:
        tools.dispatch_wanted.set()
    if stopped is not None:
        raise stopped
    return changed


async def _round(tools: PipelineTools, part: _Part) -> int:
    changes = await tools.db.run(part)
    await tools.changes.publish(*changes)
    for change in changes:
        if change.state in FINISHED_STATES:
            tools.counters.add(
                "jewelshot_generations_finished_total", operation="any", state=change.state
            )
    return len(changes)


async def _sweep_calls(tools: PipelineTools, conn: Connection) -> list[Change]:
    row = await fetch_one(conn, "select pg_try_advisory_xact_lock(%s) as mine", (_SWEEP_LOCK,))
    if row is None or not row["mine"]:
        return []
    return await queries.sweep_calls(
        conn,
        grace_seconds=tools.settings.provider_ambiguous_grace_seconds,
        attempts_max=tools.settings.provider_attempts_max,
        limit=_ROWS_AT_ONCE,
    )


async def _sweep_deadlines(conn: Connection) -> list[Change]:
    return await queries.sweep_deadlines(conn, limit=_ROWS_AT_ONCE)
