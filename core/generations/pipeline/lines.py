"""What is known of the lines of people who wait: refreshed, and mended where rows do not fit."""

import structlog

from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

log = structlog.get_logger()

REFRESH_SECONDS = 5.0


async def refresh(tools: PipelineTools) -> bool:
    """Place and pace of the lines, that people are told; false when another process did it."""
    return await tools.db.run(
        lambda conn: queries.refresh_outlook(conn, every_seconds=REFRESH_SECONDS * 0.8)
    )


async def mend(tools: PipelineTools, _: Task) -> Outcome:
    """The `generations.mend_lines` task."""
    mended = await tools.db.run(queries.mend_lines)
    if mended:
        log.error("lines.mended", people=mended)
        tools.dispatch_wanted.set()
    return DONE
