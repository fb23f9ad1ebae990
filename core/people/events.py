"""What a person should hear about their account. The database writes it where it happens."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from core.db import Connection, fetch_all
from core.words.say import say

_EVENTS = """
select id, kind, detail, created_at
from app.account_events
where user_id = %(user_id)s
  and (%(before_id)s::bigint is null or id < %(before_id)s)
order by id desc
limit %(limit)s
"""


class EventKind(StrEnum):
    CREDITS_LOW = "credits.low"
    CREDITS_EMPTY = "credits.empty"


class AccountEvent(msgspec.Struct, frozen=True):
    """`detail` holds the figures of the moment; those of credits: available, reserved, low_credits.

    Units: whole credits.
    """

    id: int
    kind: EventKind
    detail: dict[str, Any]
    created_at: datetime

    @property
    def text(self) -> str:
        left = self.detail["available"] + self.detail["reserved"]
        return say(f"account_event.{self.kind}", left=left)


async def list_events(
    conn: Connection, user_id: uuid.UUID, *, before_id: int | None, limit: int
) -> list[AccountEvent]:
    """Newest first."""
    params = {"user_id": user_id, "before_id": before_id, "limit": limit}
    return msgspec.convert(await fetch_all(conn, _EVENTS, params), list[AccountEvent])
