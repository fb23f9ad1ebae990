"""Buckets, as the caller's role: only who a policy admits, and the secret key, can change them."""

import re
from typing import Any

import msgspec

from core.db import Connection, fetch_all, fetch_one
from sandbox.supabase.storage.access import Storage, owner_uuid
from sandbox.supabase.storage.errors import (
    StorageError,
    access_denied,
    invalid_request,
    no_such_bucket,
)
from sandbox.supabase.storage.http import (
    Reply,
    StorageRequest,
    json_reply,
    require_text,
)
from sandbox.supabase.storage.times import iso_milliseconds
from sandbox.supabase.storage.uploads import find_bucket

Row = dict[str, Any]

NAME_PATTERN = re.compile(r"[A-Za-z0-9_!\-.*'() &$@=;:+,?]{1,100}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB)?", re.IGNORECASE)
_UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
_COLUMNS = (
    "id, name, public, type::text as type, file_size_limit, allowed_mime_types, created_at,"
    " updated_at"
)


class _Wanted(msgspec.Struct, frozen=True):
    public: bool | None
    size_limit: int | None
    mime_types: list[str] | None
    given: frozenset[str]


def _size_limit(value: Any) -> int | None:
    """Bytes, or a text such as `1KB` (1,000 bytes). Raises: StorageError."""
    if value is None or isinstance(value, int):
        return value
    matched = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise invalid_request("body/file_size_limit must be integer,string")
    return int(float(matched[1]) * _UNITS[(matched[2] or "B").upper()])


def _read(body: dict[str, Any]) -> _Wanted:
    try:
        mime_types = msgspec.convert(body.get("allowed_mime_types"), list[str] | None)
        public = msgspec.convert(body.get("public"), bool | None)
    except msgspec.ValidationError as error:
        raise invalid_request("body/allowed_mime_types must be array") from error
    return _Wanted(
        public=public,
        size_limit=_size_limit(body.get("file_size_limit")),
        mime_types=mime_types,
        given=frozenset(body),
    )


def _json(row: Row, *, with_type: bool) -> dict[str, Any]:
    shown = {
        "id": row["id"],
        "name": row["name"],
        "owner": "",
        "public": row["public"],
        "type": row["type"],
        "file_size_limit": row["file_size_limit"],
        "allowed_mime_types": row["allowed_mime_types"],
        "created_at": iso_milliseconds(row["created_at"]),
        "updated_at": iso_milliseconds(row["updated_at"]),
    }
    if not with_type:
        del shown["type"]
    return shown


async def create(storage: Storage, request: StorageRequest) -> Reply:
    caller = storage.caller(request)
    body = await request.json()
    name = require_text(body, "name")
    bucket = body.get("id") or name
    if not isinstance(bucket, str) or not NAME_PATTERN.fullmatch(bucket):
        raise StorageError(400, "Invalid Input", "Bucket name invalid", "InvalidBucketName")
    wanted = _read(body)

    async def work(conn: Connection) -> None:
        await conn.execute(
            "insert into storage.buckets"
            " (id, name, owner, owner_id, public, file_size_limit, allowed_mime_types)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (bucket, name, owner_uuid(caller.owner_id), caller.owner_id, bool(wanted.public),
             wanted.size_limit, wanted.mime_types),
        )  # fmt: skip

    await storage.as_caller(
        caller, request, "storage.bucket.create", work, duplicate="BucketAlreadyExists"
    )
    return json_reply({"name": bucket})


async def list_all(storage: Storage, request: StorageRequest) -> Reply:
    caller = storage.caller(request)

    async def work(conn: Connection) -> list[Row]:
        query = f"select {_COLUMNS} from storage.buckets order by id"  # noqa: S608  a constant
        return await fetch_all(conn, query)

    rows = await storage.as_caller(caller, request, "storage.bucket.list", work)
    return json_reply([_json(row, with_type=True) for row in rows])


async def get(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    caller = storage.caller(request)

    async def work(conn: Connection) -> Row | None:
        query = f"select {_COLUMNS} from storage.buckets where id = %s"  # noqa: S608  a constant
        return await fetch_one(conn, query, (bucket,))

    row = await storage.as_caller(caller, request, "storage.bucket.get", work)
    if row is None:
        raise no_such_bucket()
    return json_reply(_json(row, with_type=False))


async def update(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    caller = storage.caller(request)
    wanted = _read(await request.json())

    async def work(conn: Connection) -> Row | None:
        return await fetch_one(
            conn,
            "update storage.buckets set updated_at = now(),"
            " public = coalesce(%(public)s, public),"
            " file_size_limit = case when %(sets_size)s then %(size)s::bigint"
            " else file_size_limit end,"
            " allowed_mime_types = case when %(sets_mime)s then %(mime)s::text[]"
            " else allowed_mime_types end"
            " where id = %(bucket)s returning id",
            {
                "bucket": bucket,
                "public": wanted.public,
                "sets_size": "file_size_limit" in wanted.given,
                "size": wanted.size_limit,
                "sets_mime": "allowed_mime_types" in wanted.given,
                "mime": wanted.mime_types,
            },
        )

    if await storage.as_caller(caller, request, "storage.bucket.update", work) is None:
        raise no_such_bucket()
    return json_reply({"message": "Successfully updated"})


async def empty(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    """In production this is queued; here it is done when the answer comes."""
    caller = storage.caller(request)
    if caller.role != "service_role":
        raise access_denied("Access denied: Invalid role", http_status=403)

    async def work(conn: Connection) -> list[Row]:
        await find_bucket(conn, bucket)
        return await fetch_all(
            conn, "delete from storage.objects where bucket_id = %s returning version", (bucket,)
        )

    for row in await storage.as_server(work):
        storage.files.remove(row["version"])
    message = "Empty bucket has been queued. Completion may take up to an hour."
    return json_reply({"message": message})


async def delete(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    caller = storage.caller(request)

    async def is_filled(conn: Connection) -> bool:
        query = "select 1 from storage.objects where bucket_id = %s limit 1"
        return await fetch_one(conn, query, (bucket,)) is not None

    async def work(conn: Connection) -> Row | None:
        query = "select id from storage.buckets where id = %s"
        return await fetch_one(conn, query, (bucket,))

    async def remove(conn: Connection) -> Row | None:
        query = "delete from storage.buckets where id = %s returning id"
        return await fetch_one(conn, query, (bucket,))

    if await storage.as_caller(caller, request, "storage.bucket.delete", work) is None:
        raise no_such_bucket()
    if await storage.as_server(is_filled):
        raise StorageError(
            409,
            "ResourceNotEmpty",
            "The bucket you tried to delete is not empty",
            "ResourceNotEmpty",
        )
    if await storage.as_caller(caller, request, "storage.bucket.delete", remove) is None:
        raise no_such_bucket()
    return json_reply({"message": "Successfully deleted"})
