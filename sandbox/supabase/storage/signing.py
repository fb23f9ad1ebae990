"""Signed URLs: links that carry their own right to read or to write one object."""

import time
from typing import Any

import msgspec

from core.db import Connection, fetch_all
from sandbox.supabase.keystore import TokenError
from sandbox.supabase.storage.access import Storage, token_problem
from sandbox.supabase.storage.errors import (
    invalid_jwt,
    invalid_request,
    invalid_signature,
    missing_property,
    no_such_key,
    wrong_mime,
)
from sandbox.supabase.storage.http import Reply, StorageRequest, integer, json_reply
from sandbox.supabase.storage.uploads import (
    check_key,
    check_may_write,
    check_size,
    find_bucket,
    mime_allowed,
    read_incoming,
    store,
    wants_upsert,
)

_UNSIGNED = "Either the object does not exist or you do not have access to it"


def _signed_path(storage: Storage, bucket: str, key: str, seconds: int) -> str:
    issued_at = int(time.time())
    claims = {"url": f"{bucket}/{key}", "scope": "download", "iat": issued_at}
    token = storage.keys.sign_storage(claims | {"exp": issued_at + seconds})
    return f"/object/sign/{bucket}/{key}?token={token}"  # the path is not encoded, as in production


async def _visible(
    storage: Storage, request: StorageRequest, bucket: str, keys: list[str]
) -> set[str]:
    async def work(conn: Connection) -> set[str]:
        rows = await fetch_all(
            conn,
            "select name from storage.objects where bucket_id = %s and name = any(%s)",
            (bucket, keys),
        )
        return {row["name"] for row in rows}

    caller = storage.caller(request)
    return await storage.as_caller(caller, request, "storage.object.sign", work)


async def sign_one(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    storage.caller(request)
    seconds = integer(await request.json(), "expiresIn")
    if key not in await _visible(storage, request, bucket, [key]):
        raise no_such_key()
    return json_reply({"signedURL": _signed_path(storage, bucket, key, seconds)})


async def sign_many(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    storage.caller(request)
    body = await request.json()
    seconds = integer(body, "expiresIn")
    if "paths" not in body:
        raise missing_property("body", "paths")
    try:
        paths = msgspec.convert(body["paths"], list[str])
    except msgspec.ValidationError as error:
        raise invalid_request("body/paths must be array") from error
    visible = await _visible(storage, request, bucket, paths)
    return json_reply(
        [
            {
                "error": None if path in visible else _UNSIGNED,
                "path": path,
                "signedURL": (
                    _signed_path(storage, bucket, path, seconds) if path in visible else None
                ),
            }
            for path in paths
        ]
    )


def read_token(
    storage: Storage, request: StorageRequest, bucket: str, key: str, scope: str
) -> dict[str, Any]:
    """The claims of the URL's token. Raises: StorageError."""
    token = request.query.get("token")
    if token is None:
        raise missing_property("querystring", "token")
    try:
        claims = storage.keys.verify_storage(token)
    except TokenError as error:
        raise invalid_jwt(token_problem(error)) from error
    if claims.get("url") != f"{bucket}/{key}" or claims.get("scope") != scope:
        raise invalid_signature()
    return claims


async def sign_upload(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    caller = storage.caller(request)
    upsert = wants_upsert(request)
    await check_may_write(
        storage,
        caller,
        request,
        bucket=bucket,
        key=key,
        upsert=upsert,
        operation="storage.object.upload_signed_url",
    )
    issued_at = int(time.time())
    owner = {"owner": caller.owner_id} if caller.owner_id else {}
    claims = owner | {
        "url": f"{bucket}/{key}",
        "upsert": upsert,
        "scope": "upload",
        "iat": issued_at,
        "exp": issued_at + storage.config.signed_upload_seconds,
    }
    token = storage.keys.sign_storage(claims)
    return json_reply({"url": f"/object/upload/sign/{bucket}/{key}?token={token}", "token": token})


async def upload_signed(storage: Storage, request: StorageRequest, bucket: str, key: str) -> Reply:
    claims = read_token(storage, request, bucket, key, "upload")
    incoming = await read_incoming(storage, request)

    async def look_up(conn: Connection) -> dict[str, Any]:
        return await find_bucket(conn, bucket)

    found = await storage.as_server(look_up)
    if not mime_allowed(incoming.mime, found["allowed_mime_types"]):
        raise wrong_mime(incoming.mime.split(";")[0])
    check_key(key)
    check_size(storage, incoming, found["file_size_limit"])
    await store(
        storage,
        incoming,
        bucket=bucket,
        key=key,
        owner_id=claims.get("owner"),
        upsert=bool(claims.get("upsert")),
    )
    return json_reply({"Key": f"{bucket}/{key}"})
