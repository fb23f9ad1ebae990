"""What a person should hear about their account. The database writes it where it happens."""

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from core.db import Connection, fetch_all

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
        return _WORDS[self.kind](self.detail)


async def list_events(
    conn: Connection, user_id: uuid.UUID, *, before_id: int | None, limit: int
) -> list[AccountEvent]:
    """Newest first."""
    params = {"user_id": user_id, "before_id": before_id, "limit": limit}
    return msgspec.convert(await fetch_all(conn, _EVENTS, params), list[AccountEvent])


def _low(detail: Mapping[str, Any]) -> str:
    left = detail["available"] + detail["reserved"]
    return f"Your credits are running low: {left} left."


def _empty(_: Mapping[str, Any]) -> str:
    return "You have no credits left."


_WORDS: dict[EventKind, Callable[[Mapping[str, Any]], str]] = {
    EventKind.CREDITS_LOW: _low,
    EventKind.CREDITS_EMPTY: _empty,
}
