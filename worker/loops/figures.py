"""Writes this process's counters where the API's /metrics finds all processes' sums."""

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
