"""Rows that only served for a while."""

from core.db import Connection
from core.tasks import outbox
from core.tasks.outbox import Task
from worker.context import WorkerContext


async def purge(ctx: WorkerContext, task: Task) -> None:
    """Stored answers of idempotency keys after 24 hours, heartbeats of processes long gone."""

    async def work(conn: Connection) -> None:
        await outbox.complete(conn, task.lease_token)
        await conn.execute("delete from app.idempotency_keys where expires_at <= app.now()")
        await conn.execute(
            "delete from app.worker_heartbeats where seen_at < app.now() - interval '1 hour'"
        )

    await ctx.db.run(work)
