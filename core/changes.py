"""The change feed: after a commit, one small message names the generation that changed.

Messages may be lost: waiters also read the row again by themselves. PostgreSQL decides; Redis only
makes it quick.
"""

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterator

import msgspec
import redis.asyncio
import structlog
from redis.exceptions import RedisError

from core.settings import Settings

log = structlog.get_logger()


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A generation as it is after a change. `late`: it had ended before, and an image came."""

    generation_id: uuid.UUID
    user_id: uuid.UUID
    state: str
    version: int
    late: bool = False


def channel(settings: Settings) -> str:
    return f"{settings.redis_prefix}:changes"


class ChangePublisher:
    """Publishes changes after their commit. Raises nothing."""

    def __init__(self, settings: Settings, connection: redis.asyncio.Redis) -> None:
        self._channel = channel(settings)
        self._connection = connection

    async def publish(self, *changes: Change | None) -> None:
        """None: nothing changed. Many go in one message."""
        made = [msgspec.json.encode(change) for change in changes if change is not None]
        if not made:
            return
        try:
            async with self._connection.pipeline(transaction=False) as pipeline:
                for message in made:
                    pipeline.publish(self._channel, message)
                await pipeline.execute()
        except (RedisError, OSError) as error:
            log.debug("changes.publish_failed", error=type(error).__name__)


class ChangeHub:
    """One subscription a process; it wakes the waiters of a generation by its id.

    While Redis is unavailable it wakes none, and every waiter reads the row itself every
    `recheck_seconds`: slower, never wrong. A message may also be lost while Redis is available, so
    every waiter reads the row from time to time.
    """

    _RECHECK_SECONDS = 1.0
    _RECHECK_SECONDS_CONNECTED = 5.0
    _RECONNECT_SECONDS = 1.0

    def __init__(self, settings: Settings, connection: redis.asyncio.Redis) -> None:
        self._channel = channel(settings)
        self._connection = connection
        self._waiting: defaultdict[uuid.UUID, set[asyncio.Event]] = defaultdict(set)
        self._reader: asyncio.Task[None] | None = None
        self._is_connected = False

    @property
    def recheck_seconds(self) -> float:
        """How long a waiter may wait for a wake-up before it reads the row itself."""
        return self._RECHECK_SECONDS_CONNECTED if self._is_connected else self._RECHECK_SECONDS

    async def open(self) -> None:
        self._reader = asyncio.create_task(self._read(), name="change hub")

    async def close(self) -> None:
        # redis-py swallows a cancellation that comes while it connects (measured: 25 of 300 with
        # 8.1), and the reader would then wait for ever: cancel until it has ended.
        while self._reader is not None and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait([self._reader], timeout=0.1)

    @contextlib.contextmanager
    def watch(self, generation_id: uuid.UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the generation changes; the waiter clears it."""
        changed = asyncio.Event()
        self._waiting[generation_id].add(changed)
        try:
            yield changed
        finally:
            self._waiting[generation_id].discard(changed)
            if not self._waiting[generation_id]:
                del self._waiting[generation_id]

    async def _read(self) -> None:
        while True:
            try:
                async with self._connection.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    async for message in subscription.listen():
                        if message["type"] == "subscribe":
                            self._is_connected = True
                            self._wake_all()  # changes in between had no message
                        elif message["type"] == "message":
                            self._wake(message["data"])
            except (RedisError, OSError) as error:
                log.info("changes.subscription_lost", error=type(error).__name__)
            self._is_connected = False
            self._wake_all()  # from now on waiters read the row by themselves
            await asyncio.sleep(self._RECONNECT_SECONDS)

    def _wake(self, data: bytes) -> None:
        try:
            change = msgspec.json.decode(data, type=Change)
        except msgspec.MsgspecError:
            return
        for changed in self._waiting.get(change.generation_id, ()):
            changed.set()

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            for changed in events:
                changed.set()
