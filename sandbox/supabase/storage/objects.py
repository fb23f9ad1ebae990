"""Moving, copying and removing objects, each as the caller's role."""

from typing import Any
from uuid import uuid4

import msgspec

from core.db import Connection, fetch_all, fetch_one
from sandbox.supabase.storage.access import Storage
from sandbox.supabase.storage.errors import (
    access_denied,
    invalid_request,
    missing_property,
    no_such_key,
)
from sandbox.supabase.storage.http import (
    Reply,
    StorageRequest,
    json_reply,
    require_text,
)
from sandbox.supabase.storage.times import iso_milliseconds
from sandbox.supabase.storage.uploads import (
    OBJECT_COLUMNS,
    check_key,
    check_may_write,
    wants_upsert,
    write_row,
)

Row = dict[str, Any]

_DELETE = (
    "delete from storage.objects where bucket_id = %s and name = any(%s)"  # noqa: S608  constants
    f" returning {OBJECT_COLUMNS}"
)


def _json(row: Row) -> dict[str, Any]:
    return {
        name: iso_milliseconds(value) if name.endswith("_at") and value else value
        for name, value in row.items()
    }


class _Transfer(msgspec.Struct, frozen=True):
    bucket: str
    source: str
    target_bucket: str
    target: str


async def _read(request: StorageRequest) -> _Transfer:
    body = await request.json()
    bucket = require_text(body, "bucketId")
    source = require_text(body, "sourceKey")
    target = require_text(body, "destinationKey")
    return _Transfer(bucket, source, body.get("destinationBucket") or bucket, target)


async def move(storage: Storage, request: StorageRequest) -> Reply:
    caller = storage.caller(request)
    wanted = await _read(request)
    check_key(wanted.target)

    async def work(conn: Connection) -> None:
        # `for update` shows only rows that the caller may also change.
        found = await fetch_one(
            conn,
            "select id from storage.objects where bucket_id = %s and name = %s for update",
            (wanted.bucket, wanted.source),
        )
        if found is None:
            raise no_such_key()
        await conn.execute(
            "update storage.objects set bucket_id = %s, name = %s, updated_at = now()"
            " where id = %s",
            (wanted.target_bucket, wanted.target, found["id"]),
        )

    await storage.as_caller(
        caller, request, "storage.object.move", work, duplicate="ResourceAlreadyExists"
    )
    return json_reply({"message": "Successfully moved"})


async def copy(storage: Storage, request: StorageRequest) -> Reply:
    caller = storage.caller(request)
    wanted = await _read(request)
    check_key(wanted.target)
    version, upsert = str(uuid4()), wants_upsert(request)

    async def look_up(conn: Connection) -> Row | None:
        return await fetch_one(
            conn,
            "select version, metadata, user_metadata from storage.objects"
            " where bucket_id = %s and name = %s",
            (wanted.bucket, wanted.source),
        )

    source = await storage.as_caller(caller, request, "storage.object.copy", look_up)
    if source is None:
        raise no_such_key()
    await check_may_write(
        storage,
        caller,
        request,
        bucket=wanted.target_bucket,
        key=wanted.target,
        upsert=upsert,
        operation="storage.object.copy",
    )
    storage.files.copy(source["version"], version)

    row = await write_row(
        storage,
        bucket=wanted.target_bucket,
        key=wanted.target,
        owner_id=caller.owner_id,
        version=version,
        metadata=source["metadata"],
        user_metadata=source["user_metadata"] or {},
        upsert=upsert,
    )
    key = f"{wanted.target_bucket}/{wanted.target}"
    return json_reply({"Key": key, "Id": row["id"]} | _json(row))


async def _delete(
    storage: Storage, request: StorageRequest, bucket: str, keys: list[str], operation: str
) -> list[Row]:
    caller = storage.caller(request)

    async def work(conn: Connection) -> list[Row]:
        return await fetch_all(conn, _DELETE, (bucket, keys))

    rows = await storage.as_caller(caller, request, operation, work)
    for row in rows:
        storage.files.remove(row["version"])
    return rows


async def remove_many(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    """Answers the rows really deleted; what is missing or forbidden is just absent."""
    storage.caller(request)
    body = await request.json()
    if "prefixes" not in body:
        raise missing_property("body", "prefixes")
    try:
        keys = msgspec.convert(body["prefixes"], list[str])
    except msgspec.ValidationError as error:
        raise invalid_request("body/prefixes must be array") from error
    if not keys:
        raise invalid_request("body/prefixes must NOT have fewer than 1 items")
    rows = await _delete(storage, request, bucket, keys, "storage.object.delete_many")
    return json_reply([_json(row) for row in rows])


async def remove_one(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    if not await _delete(storage, request, bucket, [key], "storage.object.delete"):
        raise access_denied("Access denied")
    return json_reply({"message": "Successfully deleted"})
