"""What admins see of the work: tasks that could not be done, and the provider's accounts."""

import uuid
from datetime import datetime
from typing import Any

import msgspec

from core.db import Connection, fetch_all, fetch_one

_DEAD_LETTERS = """
select id, queue, job, args, error, request_id, created_at, died_at, replayed_at,
  claims + (
    select coalesce(sum(times::integer), 0)::integer
    from jsonb_each_text(failures) as failure (kind, times)
  ) as attempts
from app.dead_letters
where (%(before)s::timestamptz is null or (died_at, id) < (%(before)s, %(before_id)s))
  and (%(job)s::text is null or job = %(job)s)
  and (%(open_only)s is false or replayed_at is null)
order by died_at desc, id desc
limit %(limit)s
"""

_ACCOUNTS = """
select account.name, account.slots, account.breaker_state, account.breaker_reason,
  account.breaker_until, account.cooldown_until,
  (
    select count(*)
    from app.provider_calls as call
    where call.account_id = account.id
      and call.state in ('submitting', 'accepted', 'ambiguous')
  ) as slots_held,
  (
    select coalesce(jsonb_agg(jsonb_build_object(
      'name', key.name, 'fingerprint', key.fingerprint, 'last_used_at', key.last_used_at)
      order by key.name), '[]')
    from app.provider_keys as key
    where key.account_id = account.id
  ) as keys
from app.provider_accounts as account
order by account.name
"""


class DeadLetter(msgspec.Struct, frozen=True):
    """A task that was given up. Its arguments are ids only."""

    id: uuid.UUID
    queue: str
    job: str
    args: dict[str, Any]
    attempts: int
    error: str
    request_id: str | None
    created_at: datetime
    died_at: datetime
    replayed_at: datetime | None


class ProviderKey(msgspec.Struct, frozen=True):
    """A key is known by the name of its variable and its fingerprint, never by its secret."""

    name: str
    fingerprint: str
    last_used_at: datetime | None


class ProviderAccount(msgspec.Struct, frozen=True):
    name: str
    slots: int
    slots_held: int
    breaker_state: str
    breaker_reason: str | None
    breaker_until: datetime | None
    cooldown_until: datetime | None
    keys: list[ProviderKey]


async def list_dead_letters(
    conn: Connection,
    *,
    job: str | None,
    open_only: bool,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[DeadLetter]:
    """Newest first. `open_only` leaves out what has been replayed."""
    rows = await fetch_all(
        conn,
        _DEAD_LETTERS,
        {
            "job": job,
            "open_only": open_only,
            "before": before[0] if before else None,
            "before_id": before[1] if before else None,
            "limit": limit,
        },
    )
    return msgspec.convert(rows, list[DeadLetter])


async def replay_dead_letter(conn: Connection, letter_id: uuid.UUID) -> uuid.UUID:
    """Puts it back to work and returns the task's id; audited.

    Raises: NotAllowedError, NotFoundError. Replay: a task that is live again stays one task.
    """
    row = await fetch_one(conn, "select app.replay_dead_letter(%s) as task_id", (letter_id,))
    assert row is not None
    task_id: uuid.UUID = row["task_id"]
    return task_id


async def list_provider_accounts(conn: Connection) -> list[ProviderAccount]:
    return msgspec.convert(await fetch_all(conn, _ACCOUNTS), list[ProviderAccount])
