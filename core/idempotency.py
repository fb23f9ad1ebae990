"""`Idempotency-Key`: the answer of a request is stored in the transaction of its effect.

Twenty requests with one key execute once: the others are answered 409 with Retry-After at once,
and later get the stored answer. Kept 24 hours, per user and route.
Source: draft-ietf-httpapi-idempotency-key-header.
"""

from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_one
from core.errors import InputReason, InvalidInputError

KEY_LENGTH_MAX = 255


class IdempotentRequest(msgspec.Struct, frozen=True):
    route: str
    key: str
    body_sha256: bytes


class StoredAnswer(msgspec.Struct, frozen=True):
    status: int
    response: dict[str, Any]


def request_of(route: str, key: str, body_sha256: bytes) -> IdempotentRequest:
    """Raises: InvalidInputError for a key that is no short printable text."""
    if not 1 <= len(key) <= KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        raise InvalidInputError(field="Idempotency-Key", reason=InputReason.NOT_AN_IDEMPOTENCY_KEY)
    return IdempotentRequest(route, key, body_sha256)


async def begin(conn: Connection, request: IdempotentRequest) -> StoredAnswer | None:
    """The stored answer, or None: then the key is held until this transaction ends.

    Raises: RequestInProgressError, IdempotencyMismatchError, NoIdentityError.
    """
    row = await fetch_one(
        conn,
        "select app.idempotency_begin(%s, %s, %s) as stored",
        (request.route, request.key, request.body_sha256),
    )
    return msgspec.convert(row["stored"], StoredAnswer) if row and row["stored"] else None


async def store(
    conn: Connection, request: IdempotentRequest, *, status: int, response: dict[str, Any]
) -> None:
    await conn.execute(
        "select app.idempotency_store(%s, %s, %s, %s, %s)",
        (request.route, request.key, request.body_sha256, status, Jsonb(response)),
    )


async def delete_expired(conn: Connection) -> None:
    """Answers older than a day. For the worker."""
    await conn.execute("delete from app.idempotency_keys where expires_at <= app.now()")
