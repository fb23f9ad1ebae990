"""One-time tokens: a code of some digits and the hash of address and code are the same token."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from core.db import Connection, fetch_one
from sandbox.supabase.auth import users
from sandbox.supabase.auth.errors import AuthError
from sandbox.supabase.auth.users import Row, now

Slot = Literal[
    "confirmation_token",
    "recovery_token",
    "reauthentication_token",
    "email_change_token_new",
    "email_change_token_current",
]

SENT_AT: dict[Slot, str] = {
    "confirmation_token": "confirmation_sent_at",
    "recovery_token": "recovery_sent_at",
    "reauthentication_token": "reauthentication_sent_at",
    "email_change_token_new": "email_change_sent_at",
    "email_change_token_current": "email_change_sent_at",
}

# Which slots a type of `verify` searches.
SLOTS_OF_TYPE: dict[str, tuple[Slot, ...]] = {
    "signup": ("confirmation_token",),
    "invite": ("confirmation_token",),
    "recovery": ("recovery_token",),
    "magiclink": ("recovery_token",),
    "email": ("confirmation_token", "recovery_token"),
    "email_change": ("email_change_token_new", "email_change_token_current"),
}

PKCE_PREFIX = "pkce_"


def new_code(digits: int) -> str:
    return f"{secrets.randbelow(10**digits):0{digits}d}"


def hash_code(email: str, code: str) -> str:
    return hashlib.sha224(f"{email}{code}".encode()).hexdigest()


async def put(
    conn: Connection,
    user_id: UUID,
    slot: Slot,
    *,
    email: str,
    digits: int,
    pkce: bool = False,
) -> tuple[str, str]:
    """A new token in `slot`, voiding the one before. Returns the code and the token's hash."""
    code = new_code(digits)
    token_hash = (PKCE_PREFIX if pkce else "") + hash_code(email, code)
    await clear(conn, user_id, [slot])
    await conn.execute(
        "insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to)"
        " values (%s, %s, %s, %s, %s)",
        (uuid4(), user_id, slot, token_hash, email),
    )
    sent: dict[str, Any] = {SENT_AT[slot]: now()}
    await users.update(conn, user_id, **sent)
    return code, token_hash


async def clear(conn: Connection, user_id: UUID, slots: Sequence[Slot]) -> None:
    await conn.execute(
        "delete from auth.one_time_tokens"
        " where user_id = %s and token_type = any(%s::auth.one_time_token_type[])",
        (user_id, list(slots)),
    )


async def find(conn: Connection, token_hash: str, slots: Sequence[Slot]) -> Row | None:
    """Locks the token and its user: of two verifications at once, one finds it used."""
    return await fetch_one(
        conn,
        "select t.user_id, t.token_type::text as slot, t.token_hash, t.relates_to"
        " from auth.one_time_tokens as t join auth.users as u on u.id = t.user_id"
        " where t.token_hash = any(%s) and t.token_type = any(%s::auth.one_time_token_type[])"
        " for update of t, u",
        ([token_hash, PKCE_PREFIX + token_hash], list(slots)),
    )


def is_expired(user: Row, slot: Slot, *, seconds: int) -> bool:
    sent_at: datetime | None = user[SENT_AT[slot]]
    return sent_at is None or sent_at + timedelta(seconds=seconds) < now()


def check_interval(user: Row, slot: Slot, *, seconds: float) -> None:
    """One mail to one address in `seconds`. Raises: AuthError 429."""
    sent_at: datetime | None = user[SENT_AT[slot]]
    if sent_at is None:
        return
    wait = (sent_at + timedelta(seconds=seconds) - now()).total_seconds()
    if wait > 0:
        raise AuthError(
            429,
            "over_email_send_rate_limit",
            "For security purposes, you can only request this after"
            f" {max(1, round(wait))} seconds.",
        )
