"""Events that a person is told about. The database writes them where they happen."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from core.db import Connection, fetch_all
from core.words.say import say

_EVENTS = """
select id, type, payload, created_at
from app.events
where user_id = %(user_id)s
  and type = any (%(types)s)
  and (%(before)s::timestamptz is null or (created_at, id) < (%(before)s, %(before_id)s))
order by created_at desc, id desc
limit %(limit)s
"""


class AccountEventType(StrEnum):
    """The events that people are told about on their account's page."""

    CREDITS_RAN_LOW = "credits.ran_low"
    CREDITS_RAN_OUT = "credits.ran_out"


class AccountEvent(msgspec.Struct, frozen=True):
    """`payload` holds the figures of the moment: available, reserved, low_credits.

    Units: whole credits.
    """

    id: uuid.UUID
    type: AccountEventType
    payload: dict[str, Any]
    created_at: datetime

    @property
    def text(self) -> str:
        left = self.payload["available"] + self.payload["reserved"]
        return say(f"account_event.{self.type}", left=left)


async def list_events(
    conn: Connection, user_id: uuid.UUID, *, before: tuple[datetime, uuid.UUID] | None, limit: int
) -> list[AccountEvent]:
    """Newest first."""
    params = {
        "user_id": user_id,
        "types": list(AccountEventType),
        "before": before[0] if before else None,
        "before_id": before[1] if before else None,
        "limit": limit,
    }
    return msgspec.convert(await fetch_all(conn, _EVENTS, params), list[AccountEvent])
