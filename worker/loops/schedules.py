"""Issues a task for each schedule that is due."""

from core.tasks import outbox
from worker.context import WorkerContext


async def issue_schedules(ctx: WorkerContext) -> None:
    await ctx.db.run(outbox.issue_scheduled)
