"""Uploads. The user's right is checked by a probe: an insert (or upsert) as the user that is rolled
back. Then the bytes are stored, and the row is written past the policies, as the real server does.
"""

import base64
import hashlib
import re
from datetime import UTC, datetime
from email.message import Message
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_one
from sandbox.supabase.storage.access import (
    Caller,
    ProbePassedError,
    Storage,
    enter_scope,
    owner_uuid,
)
from sandbox.supabase.storage.errors import (
    StorageError,
    already_exists,
    invalid_key,
    no_such_bucket,
    row_refused,
    too_large,
    wrong_mime,
)
from sandbox.supabase.storage.http import Reply, StorageRequest, json_reply

KEY_PATTERN = re.compile(r"[A-Za-z0-9_/!\-.*'() &$@=;:+,?]{1,1024}")
MULTIPART_OVERHEAD = 64 * 1024

_PROBE = """
insert into storage.objects (bucket_id, name, owner, owner_id, version)
values (%(bucket)s, %(name)s, %(owner)s, %(owner_id)s, %(version)s)
"""
_PROBE_UPSERT = """
on conflict (bucket_id, name) do update
  set owner = excluded.owner, owner_id = excluded.owner_id, version = excluded.version
"""
_WRITE = """
insert into storage.objects
  (bucket_id, name, owner, owner_id, version, metadata, user_metadata)
values
  (%(bucket)s, %(name)s, %(owner)s, %(owner_id)s, %(version)s, %(metadata)s, %(user_metadata)s)
"""
_WRITE_UPSERT = """
on conflict (bucket_id, name) do update
  set owner = excluded.owner, owner_id = excluded.owner_id, version = excluded.version,
      metadata = excluded.metadata, user_metadata = excluded.user_metadata, updated_at = now()
"""

OBJECT_COLUMNS = (
    "name, bucket_id, owner, owner_id, version, id, updated_at, created_at, last_accessed_at,"
    " metadata, user_metadata"
)
_RETURNING = f" returning {OBJECT_COLUMNS}"


class Incoming(msgspec.Struct, frozen=True):
    content: bytes
    mime: str
    cache_control: str
    user_metadata: dict[str, Any]


def check_key(key: str) -> None:
    """Raises: StorageError."""
    if not KEY_PATTERN.fullmatch(key):
        raise invalid_key(key)


def wants_upsert(request: StorageRequest) -> bool:
    return request.headers.get("x-upsert", "").lower() == "true"


def _header_value(value: str) -> Message:
    message = Message()
    message["content-disposition"] = value
    return message


def _split_parts(body: bytes, boundary: str) -> list[tuple[dict[str, str], bytes]]:
    """Headers and content of each part. By offsets: a file is searched once and copied once."""
    opening, delimiter = b"--" + boundary.encode(), b"\r\n--" + boundary.encode()
    parts = []
    at = body.find(opening) + len(opening)
    while at >= len(opening) and body[at : at + 2] == b"\r\n":
        head_end = body.find(b"\r\n\r\n", at)
        end = body.find(delimiter, head_end) if head_end >= 0 else -1
        if end < 0:
            break
        lines = body[at + 2 : head_end].decode("utf-8", errors="replace").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        parts.append((headers, body[head_end + 4 : end]))
        at = end + len(delimiter)
    return parts


def _user_metadata(value: str) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(value)
    except msgspec.DecodeError:
        decoded = None
    return decoded if isinstance(decoded, dict) else {}


def _no_content() -> StorageError:
    return StorageError(400, "InvalidRequest", "No content provided", "InvalidRequest")


def _read_multipart(body: bytes, content_type: str) -> Incoming:
    """Raises: StorageError without a file part."""
    boundary = _header_value(content_type).get_param("boundary", header="content-disposition")
    fields: dict[str, str] = {}
    file: tuple[dict[str, str], bytes] | None = None
    for headers, content in _split_parts(body, str(boundary)):
        disposition = _header_value(headers.get("content-disposition", ""))
        if disposition.get_filename() is not None:
            file = file or (headers, content)
        else:
            name = disposition.get_param("name", header="content-disposition")
            fields[str(name)] = content.decode("utf-8", errors="replace")
    if file is None:
        raise _no_content()
    seconds = fields.get("cacheControl", "")
    return Incoming(
        content=file[1],
        mime=fields.get("contentType") or file[0].get("content-type", "text/plain"),
        cache_control=f"max-age={seconds}" if seconds else "no-cache",
        user_metadata=_user_metadata(fields.get("metadata", "")),
    )


def _read_raw(body: bytes, headers: dict[str, str]) -> Incoming:
    encoded = headers.get("x-metadata", "")
    try:
        metadata = base64.b64decode(encoded).decode()
    except ValueError:
        metadata = ""
    return Incoming(
        content=body,
        mime=headers.get("content-type") or "application/octet-stream",
        cache_control=headers.get("cache-control", "no-cache"),
        user_metadata=_user_metadata(metadata),
    )


async def read_incoming(storage: Storage, request: StorageRequest) -> Incoming:
    limit = storage.config.upload_bytes_max + MULTIPART_OVERHEAD
    body = await request.body(bytes_max=limit)
    content_type = request.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        return _read_multipart(body, content_type)
    return _read_raw(body, request.headers)


def mime_allowed(mime: str, allowed: list[str] | None) -> bool:
    if not allowed:
        return True
    essence = mime.partition(";")[0].strip().lower()
    for pattern in allowed:
        if pattern in {essence, "*/*"}:
            return True
        if pattern.endswith("/*") and essence.startswith(pattern[:-1]):
            return True
    return False


async def find_bucket(conn: Connection, bucket: str) -> dict[str, Any]:
    """Past the policies. Raises: StorageError."""
    row = await fetch_one(
        conn,
        "select id, public, file_size_limit, allowed_mime_types from storage.buckets where id = %s",
        (bucket,),
    )
    if row is None:
        raise no_such_bucket()
    return row


async def _probe(conn: Connection, caller: Caller, bucket: str, key: str, *, upsert: bool) -> None:
    await conn.execute(
        _PROBE + (_PROBE_UPSERT if upsert else ""),
        {
            "bucket": bucket,
            "name": key,
            "owner": owner_uuid(caller.owner_id),
            "owner_id": caller.owner_id,
            "version": str(uuid4()),
        },
    )
    raise ProbePassedError


async def check_may_write(
    storage: Storage,
    caller: Caller,
    request: StorageRequest,
    *,
    bucket: str,
    key: str,
    upsert: bool,
    operation: str,
    incoming: Incoming | None = None,
) -> None:
    """Bucket, type, key, the caller's right and size, in the server's order.

    Raises: StorageError.
    """

    async def work(conn: Connection) -> int | None:
        found = await find_bucket(conn, bucket)
        if incoming is not None and not mime_allowed(incoming.mime, found["allowed_mime_types"]):
            raise wrong_mime(incoming.mime.split(";")[0])
        check_key(key)
        limit: int | None = found["file_size_limit"]
        try:
            async with conn.transaction():
                await enter_scope(conn, caller, request, operation)
                await _probe(conn, caller, bucket, key, upsert=upsert)
        except ProbePassedError:
            return limit
        raise AssertionError("a probe always raises")

    try:
        limit = await storage.db.run(work)
    except psycopg.errors.InsufficientPrivilege as error:
        raise row_refused() from error
    except psycopg.errors.UniqueViolation as error:
        raise already_exists() from error
    check_size(storage, incoming, limit)


def check_size(storage: Storage, incoming: Incoming | None, limit: int | None) -> None:
    ceiling = storage.config.upload_bytes_max
    if incoming is not None and len(incoming.content) > min(limit or ceiling, ceiling):
        raise too_large()


def file_metadata(incoming: Incoming) -> dict[str, Any]:
    digest = hashlib.md5(incoming.content, usedforsecurity=False).hexdigest()
    size = len(incoming.content)
    return {
        "eTag": f'"{digest}"',
        "size": size,
        "mimetype": incoming.mime,
        "cacheControl": incoming.cache_control,
        "lastModified": datetime.now(UTC).isoformat(timespec="milliseconds")[:23] + "Z",
        "contentLength": size,
        "httpStatusCode": 200,
    }


async def write_row(
    storage: Storage,
    *,
    bucket: str,
    key: str,
    owner_id: str | None,
    version: str,
    metadata: dict[str, Any],
    user_metadata: dict[str, Any],
    upsert: bool,
) -> dict[str, Any]:
    """The row of bytes that are already there; the bytes that nothing names any more go.

    Raises: StorageError.
    """

    async def work(conn: Connection) -> tuple[dict[str, Any], str | None]:
        replaced = await fetch_one(
            conn,
            "select version from storage.objects where bucket_id = %s and name = %s for update",
            (bucket, key),
        )
        row = await fetch_one(
            conn,
            _WRITE + (_WRITE_UPSERT if upsert else "") + _RETURNING,
            {
                "bucket": bucket,
                "name": key,
                "owner": owner_uuid(owner_id),
                "owner_id": owner_id,
                "version": version,
                "metadata": Jsonb(metadata),
                "user_metadata": Jsonb(user_metadata),
            },
        )
        assert row is not None
        return row, replaced["version"] if replaced else None

    try:
        row, old_version = await storage.as_server(work)
    except psycopg.errors.UniqueViolation as error:
        storage.files.remove(version)
        raise already_exists() from error
    except psycopg.errors.ForeignKeyViolation as error:
        storage.files.remove(version)
        raise no_such_bucket() from error
    if old_version:
        storage.files.remove(old_version)
    return row


async def store(
    storage: Storage,
    incoming: Incoming,
    *,
    bucket: str,
    key: str,
    owner_id: str | None,
    upsert: bool,
) -> str:
    """Bytes, then the row. Returns the object's id."""
    version = str(uuid4())
    await storage.files.write(version, incoming.content)
    row = await write_row(
        storage,
        bucket=bucket,
        key=key,
        owner_id=owner_id,
        version=version,
        metadata=file_metadata(incoming),
        user_metadata=incoming.user_metadata,
        upsert=upsert,
    )
    return str(row["id"])


async def _upload(
    storage: Storage, request: StorageRequest, bucket: str, key: str, *, upsert: bool
) -> Reply:
    caller = storage.caller(request)
    incoming = await read_incoming(storage, request)
    await check_may_write(
        storage,
        caller,
        request,
        bucket=bucket,
        key=key,
        upsert=upsert,
        operation="storage.object.upload",
        incoming=incoming,
    )
    object_id = await store(
        storage, incoming, bucket=bucket, key=key, owner_id=caller.owner_id, upsert=upsert
    )
    return json_reply({"Key": f"{bucket}/{key}", "Id": object_id})


async def create(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    return await _upload(storage, request, bucket, key, upsert=wants_upsert(request))


async def replace(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    """PUT is an upsert: it creates what is missing."""
    return await _upload(storage, request, bucket, key, upsert=True)
