"""The routes of the Storage stand-in, as one ASGI application under `/storage/v1`."""

import re
from collections.abc import Awaitable, Callable
from typing import cast

import psycopg
import structlog
from litestar.handlers import asgi
from litestar.types import HTTPScope, Receive, Scope, Send

from sandbox.supabase.gateway import GatewayError
from sandbox.supabase.storage import buckets, downloads, listing, objects, signing, uploads
from sandbox.supabase.storage.access import Storage
from sandbox.supabase.storage.errors import StorageError
from sandbox.supabase.storage.http import (
    MOUNT,
    Reply,
    StorageRequest,
    error_reply,
    json_reply,
)

Handler = Callable[..., Awaitable[Reply]]

log = structlog.get_logger()

_BUCKET = r"(?P<bucket>[^/]+)"
_OBJECT = _BUCKET + r"/(?P<key>.+)"


async def _status(_storage: Storage, _request: StorageRequest) -> Reply:
    return Reply()


_TABLE: tuple[tuple[str, str, Handler], ...] = (
    ("GET", r"/status", _status),
    ("POST", r"/bucket/?", buckets.create),
    ("GET", r"/bucket/?", buckets.list_all),
    ("GET", rf"/bucket/{_BUCKET}", buckets.get),
    ("PUT", rf"/bucket/{_BUCKET}", buckets.update),
    ("DELETE", rf"/bucket/{_BUCKET}", buckets.delete),
    ("POST", rf"/bucket/{_BUCKET}/empty", buckets.empty),
    ("POST", r"/object/move", objects.move),
    ("POST", r"/object/copy", objects.copy),
    ("POST", rf"/object/list/{_BUCKET}", listing.list_folder),
    ("POST", rf"/object/list-v2/{_BUCKET}", listing.list_below),
    ("POST", rf"/object/upload/sign/{_OBJECT}", signing.sign_upload),
    ("PUT", rf"/object/upload/sign/{_OBJECT}", signing.upload_signed),
    ("POST", rf"/object/sign/{_BUCKET}", signing.sign_many),
    ("POST", rf"/object/sign/{_OBJECT}", signing.sign_one),
    ("GET", rf"/object/sign/{_OBJECT}", downloads.get_signed),
    ("GET", rf"/object/info/authenticated/{_OBJECT}", downloads.info_authenticated),
    ("GET", rf"/object/info/public/{_OBJECT}", downloads.info_public),
    ("GET", rf"/object/info/{_OBJECT}", downloads.info),
    ("GET", rf"/object/public/{_OBJECT}", downloads.get_public),
    ("GET", rf"/object/authenticated/{_OBJECT}", downloads.get_authenticated),
    ("GET", rf"/object/{_OBJECT}", downloads.get_object),
    ("POST", rf"/object/{_OBJECT}", uploads.create),
    ("PUT", rf"/object/{_OBJECT}", uploads.replace),
    ("DELETE", rf"/object/{_BUCKET}", objects.remove_many),
    ("DELETE", rf"/object/{_OBJECT}", objects.remove_one),
)
_COMPILED = [(method, re.compile(pattern, re.DOTALL), run) for method, pattern, run in _TABLE]
_PLUGIN_ROUTES = ("/object", "/bucket", "/render", "/upload")


def _not_found(request: StorageRequest) -> Reply:
    message = f"Route {request.method}:{request.raw_url} not found"
    if request.path.startswith(_PLUGIN_ROUTES):
        error = StorageError(404, "Not Found", message, "InvalidRequest", http_status=404)
        return Reply(error.body, 404, {"content-type": "application/json"})
    return json_reply({"message": message, "error": "Not Found", "statusCode": 404}, status=404)


async def _dispatch(storage: Storage, request: StorageRequest) -> Reply:
    wanted = "GET" if request.method == "HEAD" else request.method
    for method, pattern, run in _COMPILED:
        if method != wanted:
            continue
        matched = pattern.fullmatch(request.path)
        if matched is not None:
            return await run(storage, request, **matched.groupdict())
    return _not_found(request)


async def _answer(storage: Storage, request: StorageRequest) -> Reply:
    try:
        return await _dispatch(storage, request)
    except StorageError as error:
        return error_reply(error)
    except GatewayError as error:
        return json_reply(error.body, status=401)
    except psycopg.Error as error:
        log.warning("sandbox.storage_database_failed", error=type(error).__name__)
        failure = StorageError(
            500, "DatabaseError", "The database did not answer", "DatabaseError", http_status=500
        )
        return error_reply(failure)
    except Exception as error:
        log.exception("sandbox.storage_failed", path=request.path, exc_info=error)
        failure = StorageError(
            500, "Internal", "Internal server error", "InternalError", http_status=500
        )
        return error_reply(failure)


@asgi(MOUNT, is_mount=True, copy_scope=True)
async def serve_storage(scope: Scope, receive: Receive, send: Send) -> None:
    storage: Storage = scope["litestar_app"].state.storage
    request = StorageRequest(cast("HTTPScope", scope), receive)
    reply = await _answer(storage, request)
    await reply.send(send, without_body=request.method == "HEAD")
