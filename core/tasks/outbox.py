"""Rows of app.outbox: later work, written in the transaction of the change that needs it.

SQL functions add a task (`app.add_task`), the transaction wakes it (core/tasks/wakeups.py), the
relay sends what is due, a worker claims it by a lease, and it ends in the transaction of its
effect or by the runner. What is added while a task runs raises `wanted`: then its end releases
the row instead of deleting it, and it runs once more.
"""

import uuid
from typing import Any

import msgspec

from core.db import Connection, fetch_all, fetch_one
from core.errors import FailureKind
from core.tasks.errors import LeaseLostError

# Sent again after this long without a claim: Redis or the worker that popped it was lost. A task
# that waits long more likely waits its turn, so it is sent less often as it grows older; else a
# backlog of a thousand would be sent a hundred times a second.
RESEND_SECONDS = 10
RESEND_SECONDS_MAX = 30


class Task(msgspec.Struct, frozen=True):
    """A claimed row: every write of its job carries `lease_token`."""

    id: uuid.UUID
    job: str
    args: dict[str, Any]
    claims: int
    """How often it was claimed since its last recorded outcome; 1 unless a process was killed."""
    failures: dict[FailureKind, int]
    age_seconds: float
    lease_token: uuid.UUID
    request_id: str | None

    @property
    def tries(self) -> int:
        """This one included, whatever ended the others."""
        return 1 + sum(self.failures.values())


class DueTask(msgspec.Struct, frozen=True):
    """A task as it is sent to Redis."""

    id: uuid.UUID
    job: str
    claims: int = 0


_CLAIM = """
update app.outbox
set lease_token = %(token)s,
  lease_until = app.now() + make_interval(secs => lease.seconds),
  due_at = app.now() + make_interval(secs => lease.seconds),
  claimed = wanted,
  claims = claims + 1
from (
  select coalesce((%(leases)s::jsonb ->> job)::double precision, %(lease)s) as seconds
  from app.outbox
  where id = %(id)s
) as lease
where id = %(id)s
  and (lease_until is null or lease_until < app.now())
returning id, job, args, claims, failures, request_id,
  extract(epoch from app.now() - created_at)::double precision as age_seconds
"""


async def claim(
    conn: Connection,
    task_id: uuid.UUID,
    *,
    lease_seconds: float,
    leases: dict[str, float] | None = None,
) -> Task | None:
    """The task under a new lease, or None: it is done, or another worker holds it.

    `leases`: seconds of the jobs that have a lease of their own.
    """
    token = uuid.uuid4()
    values = {
        "id": task_id,
        "token": token,
        "lease": lease_seconds,
        "leases": msgspec.json.encode(leases or {}).decode(),
    }
    row = await fetch_one(conn, _CLAIM, values)
    return None if row is None else msgspec.convert({**row, "lease_token": token}, Task)


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


async def complete(conn: Connection, lease_token: uuid.UUID) -> bool:
    """The task is done: its row goes, or waits for its next run where more was wanted meanwhile.

    False when there is no such lease: the task has ended already, or the lease was lost.
    """
    row = await fetch_one(conn, "select app.end_task(%s) as ended", (lease_token,))
    assert row is not None
    return bool(row["ended"])


async def finish(conn: Connection, lease_token: uuid.UUID) -> None:
    """As `complete`, and rolls back what this transaction wrote if the lease was lost.

    Raises: LeaseLostError.
    """
    if not await complete(conn, lease_token):
        raise LeaseLostError


_RELEASE = """
update app.outbox
set lease_token = null,
  lease_until = null,
  claims = 0,
  due_at = case when wanted = claimed
    then app.now() + make_interval(secs => %(delay)s) else app.now() end,
  failures = case when %(kind)s::text is null then failures else
    jsonb_set(failures, array[%(kind)s::text],
      to_jsonb(coalesce((failures ->> %(kind)s::text)::integer, 0) + 1)) end,
  last_error = left(coalesce(%(error)s, last_error), 2000)
where lease_token = %(token)s
"""


async def release(
    conn: Connection,
    lease_token: uuid.UUID,
    *,
    delay_seconds: float,
    failure: FailureKind | None = None,
    error: str | None = None,
) -> None:
    """Gives the task back for another try after the delay; a lost lease writes nothing.

    `failure` counts one of its kind; without it the task only waits. What was wanted meanwhile
    does not wait for the delay.
    """
    values = {"token": lease_token, "delay": delay_seconds, "kind": failure, "error": error}
    await conn.execute(_RELEASE, values)


async def dead_letter(conn: Connection, lease_token: uuid.UUID, error: str) -> uuid.UUID:
    """Makes a dead letter of the task; the letter's id. What was wanted meanwhile runs again.

    Raises: LeaseLostError.
    """
    row = await fetch_one(
        conn, "select app.dead_letter_task(%s, %s) as letter_id", (lease_token, error)
    )
    assert row is not None
    letter_id: uuid.UUID = row["letter_id"]
    return letter_id


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
returning id, job, claims
"""


async def take_due(conn: Connection, *, limit: int) -> list[DueTask]:
    """Tasks that are due, each marked to be sent again if no worker claims it. Shared by relays."""
    values = {
        "resend": RESEND_SECONDS,
        "resend_max": RESEND_SECONDS_MAX,
        "limit": limit,
    }
    rows = await fetch_all(conn, _SEND_DUE, values)
    return [DueTask(**row) for row in rows]


async def make_all_due(conn: Connection) -> int:
    """After Redis was flushed every wake-up is lost: all tasks that never failed are due now."""
    cursor = await conn.execute(
        "update app.outbox set due_at = app.now() where lease_until is null"
        " and due_at > app.now() and failures = '{}'"
    )
    return cursor.rowcount


async def issue_scheduled(conn: Connection) -> int:
    """Adds a task for each schedule that is due; processes share them. How many."""
    row = await fetch_one(conn, "select app.issue_scheduled_tasks() as issued")
    assert row is not None
    return int(row["issued"])
