"""Which worker processes run: one row for each."""

import uuid

from core.db import Connection

_BEAT = """
insert into app.worker_heartbeats (worker_id, host, pid, in_flight)
values (%s, %s, %s, %s)
on conflict (worker_id) do update
set seen_at = app.now(), in_flight = excluded.in_flight
"""


async def beat(
    conn: Connection, worker_id: uuid.UUID, *, host: str, pid: int, in_flight: int
) -> None:
    await conn.execute(_BEAT, (worker_id, host, pid, in_flight))


async def leave(conn: Connection, worker_id: uuid.UUID) -> None:
    await conn.execute("delete from app.worker_heartbeats where worker_id = %s", (worker_id,))


async def delete_stale(conn: Connection) -> None:
    """Deletes the rows of processes that were killed, after an hour."""
    await conn.execute(
        "delete from app.worker_heartbeats where seen_at < app.now() - interval '1 hour'"
    )
