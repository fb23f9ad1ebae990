"""Wake-ups: the ids on RQ's queues. Redis carries nothing else and may lose them at any time.

`app.add_task` notes what it added in a setting of its transaction (`app.wakeups`: `queue:id`, or
the queue's name alone beyond 32 ids). `Database.run` reads the note in COMMIT's own message and
hands it to `TaskQueue.wake`; whatever is lost between the two is sent by the relay, and so are the
tasks of a set that was too large to name. This is the one module that may import the rq client.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import redis
import rq
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.serializers import JSONSerializer

from core.settings import Settings
from core.tasks.outbox import QUEUES, DueTask

log = structlog.get_logger()

# Wire format: what every wake-up names. No worker looks it up, see `worker/rq_job.py`.
RUN_FUNCTION = "worker.runner.run"

# The RQ job of a killed worker is only a leftover in Redis; the relay sends the row again.
RQ_TIMEOUT_SECONDS = 600
RQ_FAILURE_TTL_SECONDS = 3600
_REDIS_PAUSE_SECONDS = 2.0


def queue_name(settings: Settings, queue: str) -> str:
    return f"{settings.redis_prefix}-{queue}"


def connect_redis(settings: Settings, *, timeout_seconds: float = 1.0) -> redis.Redis:
    """Synchronous client that fails at once: a refused port must not delay callers for seconds."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
    )


def read_note(note: str) -> list[DueTask]:
    """The tasks that a transaction's note names."""
    named = (entry.partition(":") for entry in note.split())
    return [DueTask(id=uuid.UUID(task_id), queue=queue) for queue, _, task_id in named if task_id]


class TaskQueue:
    """Puts ids on RQ's queues off the event loop. Losing one costs only the relay's delay."""

    def __init__(self, settings: Settings) -> None:
        connection = connect_redis(settings)
        self._connection = connection
        self._queues = {
            name: rq.Queue(
                queue_name(settings, name), connection=connection, serializer=JSONSerializer
            )
            for name in QUEUES
        }
        # RQ's client is synchronous; one thread keeps its order and its one connection.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="enqueue")
        self._paused_until = 0.0

    async def send(self, tasks: Sequence[DueTask]) -> bool:
        """True when Redis took them all. Raises nothing: what is lost is sent by the relay."""
        if not tasks or time.monotonic() < self._paused_until:
            return not tasks
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._push, tasks)

    def wake(self, note: str) -> None:
        """Sends what a committed transaction noted, without anybody waiting for Redis. Raises
        nothing: what is lost is sent by the relay."""
        if time.monotonic() >= self._paused_until and (tasks := read_note(note)):
            with contextlib.suppress(RuntimeError):  # closed: the process ends
                self._thread.submit(self._push, tasks)

    def _push(self, tasks: Sequence[DueTask]) -> bool:
        try:
            for task in tasks:
                self._queues[task.queue].enqueue_call(
                    RUN_FUNCTION,
                    args=(str(task.id),),
                    job_id=f"{task.id}-{task.claims}",
                    timeout=RQ_TIMEOUT_SECONDS,
                    result_ttl=0,
                    failure_ttl=RQ_FAILURE_TTL_SECONDS,
                )
        except redis.RedisError as error:
            self._paused_until = time.monotonic() + _REDIS_PAUSE_SECONDS
            log.warning("tasks.wake_failed", error=type(error).__name__)
            return False
        return True

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._connection.close()
