"""The provider's webhook that a call ended: makes sure that one collect task exists."""

import uuid

from core.db import Connection


async def receive(conn: Connection, call_id: uuid.UUID, token: str, *, request_id: str) -> None:
    """Has the call collected, unless it had ended before.

    Raises: NotFoundError for an unknown call or a wrong token.
    """
    await conn.execute(
        "select app.receive_provider_webhook(%s, %s, %s)", (call_id, token, request_id)
    )
