"""Tasks that could not be done, as admins see them, and their replay."""

import uuid
from datetime import datetime
from typing import Any

import msgspec

from core.db import Connection, fetch_all, fetch_one

_DEAD_LETTERS = """
select id, task_id, job, args, claims, failures, error, request_id, created_at, died_at,
  replayed_at, replayed_as
from app.dead_letters
where (%(before)s::timestamptz is null or (died_at, id) < (%(before)s, %(before_id)s))
  and (%(job)s::text is null or job = %(job)s)
  and (%(open_only)s is false or replayed_at is null)
order by died_at desc, id desc
limit %(limit)s
"""


class DeadLetter(msgspec.Struct, frozen=True):
    """A task that became a dead letter. Its arguments are ids only."""

    id: uuid.UUID
    task_id: uuid.UUID
    job: str
    args: dict[str, Any]
    claims: int
    failures: dict[str, int]
    error: str
    request_id: str | None
    created_at: datetime
    died_at: datetime
    replayed_at: datetime | None
    replayed_as: uuid.UUID | None


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


async def purge_dead_letters(conn: Connection, *, limit: int) -> int:
    """Deletes letters past their time; how many."""
    row = await fetch_one(conn, "select app.purge_dead_letters(%s) as purged", (limit,))
    assert row is not None
    return int(row["purged"])


async def replay_dead_letter(conn: Connection, letter_id: uuid.UUID) -> uuid.UUID:
    """Adds its task again and returns the task's id; audited.

    Raises: NotAllowedError, NotFoundError. Replay: a letter becomes one task, however often.
    """
    row = await fetch_one(conn, "select app.replay_dead_letter(%s) as task_id", (letter_id,))
    assert row is not None
    task_id: uuid.UUID = row["task_id"]
    return task_id
