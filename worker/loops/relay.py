"""Sends what is due: the net under the wake-ups, and the way back after Redis was flushed."""

import uuid

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from core.tasks import outbox
from worker.context import WorkerContext

log = structlog.get_logger()

_TASKS_AT_ONCE = 200


class Relay:
    """Notices by an epoch key that Redis was flushed: then everything is due."""

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
