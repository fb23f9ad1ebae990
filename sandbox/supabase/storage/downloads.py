"""Reading objects: bytes, ranges, conditional requests, and what is known of them."""

import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from core.db import Connection, fetch_one
from sandbox.supabase.gateway import read_credentials
from sandbox.supabase.storage.access import Storage
from sandbox.supabase.storage.errors import StorageError, no_such_bucket, no_such_key
from sandbox.supabase.storage.http import Reply, StorageRequest, json_reply
from sandbox.supabase.storage.signing import read_token
from sandbox.supabase.storage.times import iso_milliseconds

Row = dict[str, Any]

_COLUMNS = "id, name, bucket_id, version, metadata, user_metadata, created_at, updated_at"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def _find(conn: Connection, bucket: str, key: str) -> Row | None:
    return await fetch_one(
        conn,
        f"select {_COLUMNS} from storage.objects"  # noqa: S608  the columns are a constant
        " where bucket_id = %s and name = %s",
        (bucket, key),
    )


async def _as_server(storage: Storage, bucket: str, key: str) -> Row:
    async def work(conn: Connection) -> Row | None:
        return await _find(conn, bucket, key)

    row = await storage.as_server(work)
    if row is None:
        raise no_such_key()
    return row


async def _is_public(storage: Storage, bucket: str) -> bool | None:
    async def work(conn: Connection) -> Row | None:
        return await fetch_one(conn, "select public from storage.buckets where id = %s", (bucket,))

    row = await storage.as_server(work)
    return None if row is None else bool(row["public"])


async def _as_caller(
    storage: Storage, request: StorageRequest, bucket: str, key: str, operation: str
) -> Row:
    caller = storage.caller(request)

    async def work(conn: Connection) -> Row | None:
        return await _find(conn, bucket, key)

    row = await storage.as_caller(caller, request, operation, work)
    if row is None:
        raise no_such_key()
    return row


def _is_authenticated(storage: Storage, request: StorageRequest) -> bool:
    """A wrong token counts as none: the answer does not reveal that the bucket exists."""
    read_credentials(request.headers, storage.config, storage.keys)
    try:
        storage.caller(request)
    except StorageError:
        return False
    return True


async def _readable(
    storage: Storage, request: StorageRequest, bucket: str, key: str, operation: str
) -> Row:
    public = await _is_public(storage, bucket)
    if public:
        return await _as_server(storage, bucket, key)
    if public is None or not _is_authenticated(storage, request):
        raise no_such_bucket()
    return await _as_caller(storage, request, bucket, key, operation)


async def get_object(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    row = await _readable(storage, request, bucket, key, "storage.object.get_authenticated")
    return await _bytes_reply(storage, request, row)


async def get_authenticated(
    storage: Storage, request: StorageRequest, bucket: str, key: str
) -> Reply:
    row = await _as_caller(storage, request, bucket, key, "storage.object.get_authenticated")
    return await _bytes_reply(storage, request, row)


async def _public_row(storage: Storage, bucket: str, key: str) -> Row:
    if not await _is_public(storage, bucket):
        raise no_such_bucket()
    return await _as_server(storage, bucket, key)


async def get_public(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    return await _bytes_reply(storage, request, await _public_row(storage, bucket, key))


async def get_signed(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    claims = read_token(storage, request, bucket, key, "download")
    row = await _as_server(storage, bucket, key)
    expires = datetime.fromtimestamp(claims["exp"], UTC)
    return await _bytes_reply(storage, request, row, expires=expires)


def _info(row: Row) -> Reply:
    metadata = row["metadata"] or {}
    return json_reply(
        {
            "id": str(row["id"]),
            "name": row["name"],
            "version": row["version"],
            "bucket_id": row["bucket_id"],
            "size": metadata.get("size"),
            "content_type": metadata.get("mimetype"),
            "cache_control": metadata.get("cacheControl"),
            "etag": metadata.get("eTag"),
            "metadata": row["user_metadata"] or {},
            "last_modified": iso_milliseconds(row["updated_at"]),
            "created_at": iso_milliseconds(row["created_at"]),
        }
    )


async def info(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    return _info(await _readable(storage, request, bucket, key, "object.get_authenticated_info"))


async def info_authenticated(
    storage: Storage, request: StorageRequest, bucket: str, key: str
) -> Reply:
    return _info(await _as_caller(storage, request, bucket, key, "object.get_authenticated_info"))


async def info_public(storage: Storage, _request: StorageRequest, bucket: str, key: str) -> Reply:
    return _info(await _public_row(storage, bucket, key))


def _disposition(request: StorageRequest) -> str | None:
    name = request.query.get("download")
    if name is None:
        return None
    if not name:
        return "attachment;"
    encoded = quote(name, safe="!'()*-._~")
    return f"attachment; filename={encoded}; filename*=UTF-8''{encoded}"


def _headers(row: Row, request: StorageRequest, expires: datetime | None) -> dict[str, str]:
    metadata = row["metadata"] or {}
    mime = metadata.get("mimetype") or "application/octet-stream"
    modified = datetime.fromisoformat(metadata["lastModified"])
    headers = {
        "accept-ranges": "bytes",
        # A page from a bucket would run on the project's domain.
        "content-type": "text/plain" if "text/html" in mime else mime,
        "etag": metadata["eTag"],
        "last-modified": format_datetime(modified.astimezone(UTC), usegmt=True),
        "x-robots-tag": "none",
    }
    if expires is not None:
        headers["expires"] = format_datetime(expires, usegmt=True)
    else:
        headers["cache-control"] = metadata.get("cacheControl") or "no-cache"
    disposition = _disposition(request)
    if disposition is not None:
        headers["content-disposition"] = disposition
    return headers


def _not_modified(request: StorageRequest, headers: dict[str, str]) -> bool:
    wanted = request.headers.get("if-none-match")
    if wanted is not None:
        tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
        return headers["etag"] in tags or "*" in tags
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return parsedate_to_datetime(headers["last-modified"]) <= parsedate_to_datetime(since)
    except (TypeError, ValueError):
        return False


def _range(request: StorageRequest, size: int) -> tuple[int, int] | None:
    """First and last byte asked for, None for everything. Raises: StorageError 416."""
    matched = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if matched is None or not any(matched.groups()):
        return None
    first, last = matched.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        message = "The requested range is not satisfiable"
        raise StorageError(416, "InvalidRange", message, "InvalidRange", http_status=416)
    return start, end


async def _content(storage: Storage, row: Row) -> bytes:
    size = int((row["metadata"] or {}).get("size") or 0)
    try:
        return await storage.files.read(row["version"], size)
    except FileNotFoundError:
        # It was replaced between the row and the bytes: read both once more.
        fresh = await _as_server(storage, row["bucket_id"], row["name"])
        return await storage.files.read(fresh["version"], size)


async def _bytes_reply(
    storage: Storage, request: StorageRequest, row: Row, *, expires: datetime | None = None
) -> Reply:
    headers = _headers(row, request, expires)
    if _not_modified(request, headers):
        return Reply(b"", 304, headers)
    size = int(row["metadata"]["size"])
    span = _range(request, size)
    if request.method == "HEAD":
        return Reply(b"", 200, headers | {"content-length": str(size)})
    content = await _content(storage, row)
    if span is None:
        return Reply(content, 200, headers)
    start, end = span
    return Reply(
        content[start : end + 1], 206, headers | {"content-range": f"bytes {start}-{end}/{size}"}
    )
