"""The provider's hint that a call ended: makes sure that one collect task exists."""

import uuid

from core.db import Connection, fetch_one


async def receive(
    conn: Connection, call_id: uuid.UUID, token: str, *, request_id: str
) -> uuid.UUID | None:
    """The collect task's id, or None when the call had ended before.

    Raises: NotFoundError for an unknown call or a wrong token.
    """
    row = await fetch_one(
        conn, "select app.receive_fal_webhook(%s, %s, %s) as task_id", (call_id, token, request_id)
    )
    return row["task_id"] if row else None
