"""Jobs of credits: expiry, and the nightly proof of the whole ledger."""

import structlog

from core.credits import service
from core.credits.reconcile import reconcile as find_drift
from core.db import Connection
from core.tasks import outbox
from core.tasks.outbox import Task
from worker.context import WorkerContext

log = structlog.get_logger()

_ACCOUNTS_AT_ONCE = 500


async def expire(ctx: WorkerContext, task: Task) -> None:
    async def work(conn: Connection) -> int:
        expired = await service.expire_credits(conn, accounts_max=_ACCOUNTS_AT_ONCE)
        await outbox.complete(conn, task.lease_token)
        return expired

    expired = await ctx.db.run(work)
    if expired:
        log.info("credits.expired", credits=expired)


async def reconcile(ctx: WorkerContext, task: Task) -> None:
    """Any drift is an alert: an error line for each row and a counter."""

    async def work(conn: Connection) -> None:
        drift = await find_drift(conn)
        for row in drift:
            log.error("ledger.drift", check=row.check, table=row.table, row_id=row.row_id)
        ctx.counters.add("jewelshot_ledger_drift_total", len(drift))
        await outbox.complete(conn, task.lease_token)

    await ctx.db.run(work)
