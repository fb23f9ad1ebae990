"""The SQL calls of uploads. Reading runs under the caller's policies."""

import datetime as dt
import uuid
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_all, fetch_one
from core.uploads.types import Upload, UploadId, UploadLimits, UploadState

_COLUMNS = """
select id, user_id, state, storage_key, file_name, source_format, size_bytes, normal_key,
  thumbnail_key, content_type, width, height, pixel_sha256, notes, problem, created_at, settled_at
from app.uploads
"""


async def find(conn: Connection, upload_id: uuid.UUID) -> Upload | None:
    row = await fetch_one(conn, f"{_COLUMNS} where id = %s", (upload_id,))
    return None if row is None else msgspec.convert(row, Upload)


async def find_taken_by(conn: Connection, task_id: uuid.UUID) -> UploadId | None:
    """The stored upload that the task has had its turn with."""
    row = await fetch_one(
        conn, "select id from app.uploads where task_id = %s and state = 'stored'", (task_id,)
    )
    return None if row is None else UploadId(row["id"])


async def list_own(
    conn: Connection,
    *,
    limit: int,
    state: UploadState | None,
    before: tuple[dt.datetime, uuid.UUID] | None,
) -> list[Upload]:
    """Newest first, older than `before`. Outside a user's scope there are none."""
    wanted = ["user_id = app.current_user_id()"]
    params: list[Any] = []
    if state is not None:
        wanted.append("state = %s")
        params.append(state.value)
    if before is not None:
        wanted.append("(created_at, id) < (%s, %s)")
        params.extend(before)
    rows = await fetch_all(
        conn,
        f"{_COLUMNS} where {' and '.join(wanted)} order by created_at desc, id desc limit %s",
        [*params, limit],
    )
    return msgspec.convert(rows, list[Upload])


async def prepare(
    conn: Connection,
    upload_id: UploadId,
    limits: UploadLimits,
    *,
    extension: str,
    file_name: str | None,
    cost_pixels: int | None = None,
    signed_seconds: float | None = None,
) -> None:
    """The intent; the key is `types.original_key`. Raises: QuotaError."""
    await conn.execute(
        "select app.prepare_upload(%s, %s, %s, %s, %s, %s)",
        (upload_id, extension, file_name, _json(limits), cost_pixels, signed_seconds),
    )


async def complete(
    conn: Connection,
    upload_id: UploadId,
    limits: UploadLimits,
    *,
    source_format: str,
    size_bytes: int,
    cost_pixels: int,
) -> None:
    """The bytes are stored, and are to be normalised. Replay: done before is done.

    Raises: NotFoundError, ConflictError (expired), QuotaError.
    """
    await conn.execute(
        "select app.complete_upload(%s, %s, %s, %s, %s)",
        (upload_id, source_format, size_bytes, cost_pixels, _json(limits)),
    )


def _json(limits: UploadLimits) -> Jsonb:
    return Jsonb(msgspec.to_builtins(limits))


async def take(conn: Connection, lease_token: uuid.UUID) -> UploadId | None:
    """The upload that the task normalises, by its line's turn. None: nobody's turn is now.

    Raises: LeaseLostError.
    """
    row = await fetch_one(conn, "select app.take_upload(%s) as id", (lease_token,))
    return UploadId(row["id"]) if row and row["id"] else None


async def is_anybody_waiting(conn: Connection, line: str) -> bool:
    row = await fetch_one(
        conn, "select exists (select from app.lines where line = %s) as waits", (line,)
    )
    return bool(row and row["waits"])


async def discard(conn: Connection, upload_id: UploadId) -> bool:
    """Deletes a pending upload. False when it was not pending."""
    row = await fetch_one(conn, "select app.discard_upload(%s) as gone", (upload_id,))
    return bool(row and row["gone"])


async def delete(conn: Connection, upload_id: UploadId) -> None:
    """Raises: NotFoundError, ConflictError."""
    await conn.execute("select app.delete_upload(%s)", (upload_id,))


async def settle(
    conn: Connection,
    upload_id: UploadId,
    lease_token: uuid.UUID | None,
    state: UploadState,
    facts: dict[str, Any],
) -> UploadState | None:
    """The state afterwards; None when the upload is gone. Raises: LeaseLostError."""
    row = await fetch_one(
        conn,
        "select app.settle_upload(%s, %s, %s, %s) as state",
        (upload_id, lease_token, state.value, Jsonb(facts)),
    )
    return UploadState(row["state"]) if row and row["state"] else None


async def expire(conn: Connection, *, older_than_seconds: float, limit: int) -> int:
    """How many expired; fewer than `limit` means that none are left."""
    row = await fetch_one(
        conn,
        "select app.expire_uploads(%s, %s) as expired",
        (older_than_seconds, limit),
    )
    assert row is not None
    return int(row["expired"])


async def mend_lines(conn: Connection) -> int:
    """How many tasks were missing in the lines."""
    row = await fetch_one(conn, "select app.mend_upload_lines() as added")
    assert row is not None
    return int(row["added"])
