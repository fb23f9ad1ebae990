"""Ends what nothing else ends: submits without an answer, ambiguous calls past their grace, and
generations past their deadline."""

from core.changes import Change
from core.db import Connection, fetch_one
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.types import FINISHED_STATES

_ROWS_AT_ONCE = 200
# One process sweeps at a time; the others skip their turn. Any constant: "sweep" in ASCII.
_SWEEP_LOCK = 0x7377656570


async def sweep(tools: PipelineTools) -> int:
    """One round; returns how many generations changed. Each part is a transaction of its own."""
    changed = 0
    for part in (_sweep_calls, _sweep_deadlines):
        changes = await tools.db.run(lambda conn, part=part: part(tools, conn))  # type: ignore[misc]
        await tools.changes.publish(*changes)
        for change in changes:
            if change.state in FINISHED_STATES:
                tools.counters.add(
                    "jewelshot_generations_finished_total", operation="any", state=change.state
                )
        changed += len(changes)
    if changed:
        tools.dispatch_wanted.set()
    return changed


async def _is_sweeper(conn: Connection) -> bool:
    row = await fetch_one(conn, "select pg_try_advisory_xact_lock(%s) as mine", (_SWEEP_LOCK,))
    return bool(row and row["mine"])


async def _sweep_calls(tools: PipelineTools, conn: Connection) -> list[Change]:
    if not await _is_sweeper(conn):
        return []
    return await queries.sweep_calls(
        conn,
        grace_seconds=tools.settings.provider_ambiguous_grace_seconds,
        attempts_max=tools.settings.provider_attempts_max,
        limit=_ROWS_AT_ONCE,
    )


async def _sweep_deadlines(_: PipelineTools, conn: Connection) -> list[Change]:
    if not await _is_sweeper(conn):
        return []
    return await queries.sweep_deadlines(conn, limit=_ROWS_AT_ONCE)
