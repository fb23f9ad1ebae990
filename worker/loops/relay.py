"""Sends tasks that are due: those whose wake-up was lost, and all after a flush of Redis."""

import uuid

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from core.tasks import outbox
from worker.context import WorkerContext

log = structlog.get_logger()

_TASKS_AT_ONCE = 200


class Relay:
    """An epoch key tells whether Redis was flushed since the last tick: then every task is due."""

    def __init__(self, ctx: WorkerContext, connection: redis.asyncio.Redis) -> None:
        self._ctx = ctx
        self._connection = connection
        self._epoch_key = f"{ctx.settings.redis_prefix}:epoch"

    async def tick(self) -> None:
        try:
            was_flushed = await self._connection.set(self._epoch_key, str(uuid.uuid4()), nx=True)
        except (RedisError, OSError) as error:
            log.warning("relay.redis_away", error=type(error).__name__)
            return
        if was_flushed:
            due = await self._ctx.db.run(outbox.make_all_due)
            log.warning("relay.redis_was_flushed", tasks_made_due=due)
        while True:
            tasks = await self._ctx.db.run(lambda conn: outbox.take_due(conn, limit=_TASKS_AT_ONCE))
            if not await self._ctx.queue.send(tasks) or len(tasks) < _TASKS_AT_ONCE:
                return
