"""Wake-ups: the ids on RQ's queues. Redis carries nothing else and may lose them at any time.

`app.add_task` notes what it added in a setting of its transaction (`app.wakeups`: `job:id`, or
the job's name alone beyond 32 ids), `app.complete_task` the lease that it ended (`ended:token`).
`Database.run` reads the note in COMMIT's own message and hands it to `TaskQueue.wake`; whatever is
lost between the two is sent by the relay, and so are the tasks of a set that was too large to
name. This is the one module that may import the rq client.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import redis
import rq
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.serializers import JSONSerializer

from core import keepalive
from core.settings import Settings
from core.tasks.outbox import DueTask
from core.tasks.queues import Queue

log = structlog.get_logger()

# Wire format: what every wake-up names. No worker looks it up, see `worker/rq_job.py`.
RUN_FUNCTION = "worker.runner.run"

# The RQ job of a killed worker is only a leftover in Redis; the relay sends the row again.
RQ_TIMEOUT_SECONDS = 600
RQ_FAILURE_TTL_SECONDS = 3600
_REDIS_PAUSE_SECONDS = 2.0
_ENDED = "ended"  # the word by which app.complete_task notes a lease


def queue_name(settings: Settings, queue: Queue) -> str:
    return f"{settings.redis_prefix}-{queue}"


def connect_redis(settings: Settings, *, timeout_seconds: float = 1.0) -> redis.Redis:
    """Synchronous client that fails at once: a refused port must not delay callers for seconds."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        **keepalive.REDIS,
    )


def read_note(note: str) -> tuple[list[DueTask], list[uuid.UUID]]:
    """What a transaction noted: the tasks that it names, and the leases that it ended."""
    tasks: list[DueTask] = []
    ended: list[uuid.UUID] = []
    for entry in note.split():
        word, _, named = entry.partition(":")
        if word == _ENDED:
            ended.append(uuid.UUID(named))
        elif named:
            tasks.append(DueTask(id=uuid.UUID(named), job=word))
    return tasks, ended


class TaskQueue:
    """Puts ids on RQ's queues off the event loop. Losing one costs only the relay's delay.

    `queue_of` says to which queue the tasks of a job are sent.
    """

    def __init__(self, settings: Settings, queue_of: Callable[[str], Queue]) -> None:
        connection = connect_redis(settings)
        self._connection = connection
        self._queue_of = queue_of
        self._queues = {
            name: rq.Queue(
                queue_name(settings, name), connection=connection, serializer=JSONSerializer
            )
            for name in Queue
        }
        # RQ's client is synchronous; one thread keeps its order and its one connection.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="enqueue")
        self._paused_until = 0.0
        self._ended: set[uuid.UUID] = set()

    async def send(self, tasks: Sequence[DueTask]) -> bool:
        """True when Redis took them all. Raises nothing: what is lost is sent by the relay."""
        if not tasks or time.monotonic() < self._paused_until:
            return not tasks
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._push, tasks)

    def wake(self, note: str) -> None:
        """Sends what a committed transaction noted, without anybody waiting for Redis. Raises
        nothing: what is lost is sent by the relay."""
        tasks, ended = read_note(note)
        self._ended.update(ended)
        if tasks and time.monotonic() >= self._paused_until:
            with contextlib.suppress(RuntimeError):  # closed: the process ends
                self._thread.submit(self._push, tasks)

    def take_ended(self, lease_token: uuid.UUID) -> bool:
        """Whether a transaction of this process ended the task of the lease; told once."""
        if lease_token not in self._ended:
            return False
        self._ended.remove(lease_token)
        return True

    def _push(self, tasks: Sequence[DueTask]) -> bool:
        try:
            for task in tasks:
                self._queues[self._queue_of(task.job)].enqueue_call(
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
