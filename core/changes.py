"""The change feed: after a commit, one small message says which generation changed.

A message is a hint: lost ones are found by whoever waits, by reading the row again. Postgres is
the truth; Redis only makes it quick.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import redis.asyncio
import structlog
from redis.exceptions import RedisError

from core.settings import Settings

log = structlog.get_logger()


def channel(settings: Settings) -> str:
    return f"{settings.redis_prefix}:changes"


class ChangePublisher:
    """Publishes what `app.generation_change` returned. Raises nothing."""

    def __init__(self, settings: Settings, connection: redis.asyncio.Redis) -> None:
        self._channel = channel(settings)
        self._connection = connection

    async def publish(self, *changes: Mapping[str, Any] | None) -> None:
        """Changes are {generation_id, user_id, state, version}; None is nothing changed."""
        for change in changes:
            if change is None:
                continue
            try:
                await self._connection.publish(self._channel, msgspec.json.encode(change))
            except (RedisError, OSError) as error:
                log.debug("changes.publish_failed", error=type(error).__name__)
                return
