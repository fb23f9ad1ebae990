"""Records in the database that this process runs; /readyz counts the rows."""

import os
import socket
import uuid

from core.tasks import heartbeats
from worker.context import WorkerContext


class Heartbeat:
    def __init__(self, ctx: WorkerContext) -> None:
        self._ctx = ctx
        self._worker_id = uuid.uuid4()
        self._host = socket.gethostname()

    async def tick(self) -> None:
        await self._ctx.db.run(
            lambda conn: heartbeats.beat(
                conn,
                self._worker_id,
                host=self._host,
                pid=os.getpid(),
                in_flight=self._ctx.background_count,
            )
        )

    async def leave(self) -> None:
        await self._ctx.db.run(lambda conn: heartbeats.leave(conn, self._worker_id))
