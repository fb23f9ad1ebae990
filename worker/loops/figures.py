"""Adds this process's counters to those in the database, which the API's /metrics shows."""

from core import metrics
from worker.context import WorkerContext


async def flush_figures(ctx: WorkerContext) -> None:
    taken = ctx.counters.take()
    if not taken:
        return
    try:
        await ctx.db.run(lambda conn: metrics.flush(conn, taken))
    except BaseException:
        ctx.counters.put_back(taken)
        raise
