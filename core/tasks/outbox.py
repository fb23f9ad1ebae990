"""Later work. A task is a row of app.outbox; Redis carries only its id, as a wake-up.

The row is written with the change that wants it (by SQL functions), enqueued after the commit
(`TaskQueue.enqueue`, which writes nothing and may fail), sent again by the relay when it is due,
claimed by a lease, and deleted in the transaction of its effect. This is the one module of core
that may import the rq client.
"""

import asyncio
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import redis
import rq
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.serializers import JSONSerializer

from core.changes import Change
from core.db import Connection, fetch_all, fetch_one
from core.settings import Settings

log = structlog.get_logger()

QUEUES = ("interactive", "default", "background")  # in the order in which workers serve them
RUN_FUNCTION = "worker.tasks.run"  # wire format: the only function that RQ ever imports

# Sent again after this long without a claim: Redis or the worker that popped it was lost. A task
# that waits long more likely waits its turn, so it is sent less often as it grows older; else a
# backlog of a thousand would be sent a hundred times a second.
RESEND_SECONDS = 10
RESEND_SECONDS_MAX = 30
# A task older than this is served first, so that strict priority starves nobody.
AGED_SECONDS = 300
# An RQ job whose worker died is only a leftover in Redis; the row is sent again by the relay.
RQ_TIMEOUT_SECONDS = 600
RQ_FAILURE_TTL_SECONDS = 3600
_REDIS_PAUSE_SECONDS = 2.0


class Task(msgspec.Struct, frozen=True):
    """A claimed row: every write of its job carries `lease_token`."""

    id: uuid.UUID
    job: str
    args: dict[str, Any]
    attempts: int
    lease_token: uuid.UUID
    request_id: str | None


class DueTask(msgspec.Struct, frozen=True):
    id: uuid.UUID
    queue: str
    attempts: int


def queue_name(settings: Settings, queue: str) -> str:
    return f"{settings.redis_prefix}-{queue}"


def connect_redis(settings: Settings, *, timeout_seconds: float = 1.0) -> redis.Redis:
    """Synchronous client that fails at once: a refused port must not hold anybody for seconds."""
    return redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
    )


class TaskQueue:
    """Enqueues ids on RQ off the event loop. Losing one costs only the relay's delay."""

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

    async def enqueue(self, *tasks: DueTask) -> bool:
        """True when Redis took them all. Raises nothing: what is lost is sent by the relay."""
        if not tasks or time.monotonic() < self._paused_until:
            return not tasks
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._push, tasks)

    def enqueue_soon(self, *tasks: DueTask) -> None:
        """As `enqueue`, without waiting for Redis: for the end of a request."""
        if tasks and time.monotonic() >= self._paused_until:
            self._thread.submit(self._push, tasks)

    def _push(self, tasks: Iterable[DueTask]) -> bool:
        try:
            for task in tasks:
                self._queues[task.queue].enqueue_call(
                    RUN_FUNCTION,
                    args=(str(task.id),),
                    job_id=f"{task.id}-{task.attempts}",
                    timeout=RQ_TIMEOUT_SECONDS,
                    result_ttl=0,
                    failure_ttl=RQ_FAILURE_TTL_SECONDS,
                )
        except redis.RedisError as error:
            self._paused_until = time.monotonic() + _REDIS_PAUSE_SECONDS
            log.warning("outbox.enqueue_failed", error=type(error).__name__)
            return False
        return True

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._connection.close()


_CLAIM = """
update app.outbox
set lease_token = %(token)s,
  lease_until = app.now() + make_interval(secs => %(lease)s),
  due_at = app.now() + make_interval(secs => %(lease)s),
  claimed = wanted,
  claims = claims + 1
where id = %(id)s
  and (lease_until is null or lease_until < app.now())
returning id, job, args, request_id,
  claims + (
    select coalesce(sum(times::integer), 0)::integer
    from jsonb_each_text(failures) as failure (kind, times)
  ) as attempts
"""


async def claim(conn: Connection, task_id: uuid.UUID, *, lease_seconds: float) -> Task | None:
    """The task under a new lease, or None: it is done, or another worker holds it."""
    token = uuid.uuid4()
    row = await fetch_one(conn, _CLAIM, {"id": task_id, "token": token, "lease": lease_seconds})
    return None if row is None else Task(**row, lease_token=token)


_RENEW = """
update app.outbox
set lease_until = app.now() + make_interval(secs => %(lease)s),
  due_at = app.now() + make_interval(secs => %(lease)s)
where lease_token = %(token)s
"""


async def renew(conn: Connection, lease_token: uuid.UUID, *, lease_seconds: float) -> bool:
    """False when the lease was lost or the task is done."""
    cursor = await conn.execute(_RENEW, {"token": lease_token, "lease": lease_seconds})
    return cursor.rowcount == 1


_RELEASE = """
update app.outbox
set lease_token = null,
  lease_until = null,
  due_at = app.now() + make_interval(secs => %(delay)s),
  claims = 0,
  failures = failures || jsonb_build_object(
    %(kind)s::text, coalesce((failures ->> %(kind)s)::integer, 0) + claims),
  last_error = left(%(error)s, 2000)
where lease_token = %(token)s
"""


async def release(
    conn: Connection, lease_token: uuid.UUID, *, delay_seconds: float, kind: str, error: str
) -> None:
    """Gives the task back for another attempt after the delay; a lost lease writes nothing."""
    values = {"token": lease_token, "delay": delay_seconds, "kind": kind, "error": error}
    await conn.execute(_RELEASE, values)


async def complete(conn: Connection, lease_token: uuid.UUID) -> None:
    """The task is done, or released, due now, when it was wanted again since the claim.

    Raises: LeaseLostError, which takes back what this transaction wrote.
    """
    await conn.execute("select app.complete_task(%s)", (lease_token,))


async def noted(conn: Connection) -> list[DueTask]:
    """What this transaction wants to be woken after its COMMIT."""
    row = await fetch_one(conn, "select current_setting('app.wakeups', true) as entries")
    entries = (row["entries"] or "" if row else "").split()
    return [
        DueTask(id=uuid.UUID(task_id), queue=queue, attempts=0)
        for queue, _, task_id in (entry.partition(":") for entry in entries)
        if task_id
    ]


async def bury(conn: Connection, lease_token: uuid.UUID, error: str) -> Change | None:
    """Makes a dead letter and ends its subject; returns the generation's change, if one ended."""
    row = await fetch_one(conn, "select app.bury_task(%s, %s) as change", (lease_token, error))
    return msgspec.convert(row["change"], Change) if row and row["change"] else None


_SEND_DUE = """
update app.outbox
set due_at = app.now() + least(
    make_interval(secs => %(resend_max)s),
    greatest(make_interval(secs => %(resend)s), app.now() - created_at))
where id in (
  select id
  from app.outbox
  where due_at <= app.now()
    and (lease_until is null or lease_until < app.now())
  order by due_at
  limit %(limit)s
  for update skip locked
)
returning id,
  case
    when created_at < app.now() - make_interval(secs => %(aged)s) then 'interactive'
    else queue end as queue,
  claims + (
    select coalesce(sum(times::integer), 0)::integer
    from jsonb_each_text(failures) as failure (kind, times)
  ) as attempts
"""


async def take_due(conn: Connection, *, limit: int) -> list[DueTask]:
    """Tasks that are due, each marked to be sent again if nobody claims it. Shared by relays."""
    values = {
        "resend": RESEND_SECONDS,
        "resend_max": RESEND_SECONDS_MAX,
        "aged": AGED_SECONDS,
        "limit": limit,
    }
    rows = await fetch_all(conn, _SEND_DUE, values)
    return [DueTask(**row) for row in rows]


async def make_all_due(conn: Connection) -> int:
    """After Redis was flushed every wake-up is lost: all unclaimed tasks are due now."""
    cursor = await conn.execute(
        "update app.outbox set due_at = app.now() where lease_until is null and due_at > app.now()"
        " and claims = 0 and failures = '{}'"
    )
    return cursor.rowcount
