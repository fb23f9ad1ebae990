"""Uploads (both protocols of the SDKs), files, the webhook keys and the price list."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Response, get, post, put
from litestar.params import FromPath
from litestar.response import Stream

from sandbox.fal.models import ENDPOINTS
from sandbox.fal.outages import Asked, Ongoing, OutageKind, Route
from sandbox.fal.queue_routes import (
    AnyRequest,
    account_of,
    base_url_of,
    engine_of,
    outage_at,
)
from sandbox.fal.refusals import answer_of
from sandbox.fal.replies import reply
from sandbox.fal.storage import PATH_PREFIX, StoredFile, expiry_of
from sandbox.kit.connections import drop_connection

Reply = Response[bytes]

LIFECYCLE = "x-fal-object-lifecycle"
_CHUNK = 64 * 1024
_CHALLENGE = b"<!doctype html><html><title>Just a moment...</title><body>Checking</body></html>"
_NO_KEY = {"detail": "Authentication is required"}


class UploadIntent(msgspec.Struct, frozen=True):
    content_type: str = "application/octet-stream"
    file_name: str = "file"


@post("/storage/auth/token", status_code=200)
async def issue_token(request: AnyRequest) -> Reply:
    if account_of(request) is None:
        return reply(401, _NO_KEY)
    token, expires_at = engine_of(request).files.issue_token()
    return reply(
        200,
        {
            "token": token,
            "token_type": "Bearer",
            "base_url": base_url_of(request),
            "expires_at": datetime.fromtimestamp(expires_at, UTC).isoformat(),
        },
    )


@post("/files/upload", status_code=200)
async def upload(request: AnyRequest) -> Reply:
    files = engine_of(request).files
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not files.is_token(token):
        return reply(401, _NO_KEY)
    file = StoredFile(
        content=await request.body(),
        content_type=request.headers.get("content-type", "application/octet-stream"),
        expires_at=expiry_of(request.headers, LIFECYCLE),
    )
    path = files.put(file, request.headers.get("x-fal-file-name", "file"))
    return reply(200, {"access_url": base_url_of(request) + path})


@post("/storage/upload/initiate", status_code=200)
async def initiate(request: AnyRequest) -> Reply:
    if account_of(request) is None:
        return reply(401, _NO_KEY)
    out = await outage_at(request, Route.UPLOAD, "storage")
    if out is not None:
        return out
    try:
        intent = msgspec.json.decode(await request.body() or b"{}", type=UploadIntent)
    except msgspec.DecodeError as error:
        return reply(422, {"detail": str(error)})
    ticket, path = engine_of(request).files.begin_upload(
        name=intent.file_name,
        content_type=intent.content_type,
        expires_at=expiry_of(request.headers, LIFECYCLE),
    )
    base_url = base_url_of(request)
    return reply(
        200,
        {"upload_url": f"{base_url}/storage/put/{ticket}", "file_url": base_url + path},
    )


@put("/storage/put/{ticket:str}", status_code=200)
async def put_upload(request: AnyRequest, ticket: FromPath[str]) -> Reply:
    path = engine_of(request).files.finish_upload(ticket, await request.body())
    if path is None:
        return reply(404, {"detail": "Upload not found"})
    return reply(200, {})


@get("/files/{path:path}")
async def serve(request: AnyRequest, path: FromPath[str]) -> Response[Any]:
    engine = engine_of(request)
    file = engine.files.find(PATH_PREFIX + path.lstrip("/"))
    ongoing = engine.outage(
        Asked(
            route=Route.FILE,
            account=None if file is None else file.account,
            request_id=None if file is None else file.request_id,
        )
    )
    if ongoing is not None:
        out = await answer_of(ongoing, path)
        if out is not None:
            return out
    if file is None:
        return reply(404, {"detail": "File not found"})
    spoilt = None if ongoing is None else _spoilt(request, file, ongoing)
    if spoilt is not None:
        return spoilt
    if file.filler_bytes:
        return Stream(
            _padded(file),
            media_type=file.content_type,
            headers={"content-length": str(file.size_bytes)},
        )
    return Response(file.content, media_type=file.content_type)


def _spoilt(request: AnyRequest, file: StoredFile, ongoing: Ongoing) -> Response[Any] | None:
    """The file as an outage of files has it come."""
    half = file.content[: len(file.content) // 2]
    length = {"content-length": str(len(file.content))}
    match ongoing.kind:
        case OutageKind.TRUNCATED:
            return Response(half, media_type=file.content_type)
        case OutageKind.BROKEN:
            return Stream(_broken(request, half), media_type=file.content_type, headers=length)
        case OutageKind.HTML_PAGE:
            return Response(_CHALLENGE, media_type="text/html")
        case OutageKind.DRIP:
            rate = float(ongoing.args.get("bytes_per_second", 1.0))
            return Stream(_drip(file.content, rate), media_type=file.content_type, headers=length)
        case _:
            return None


async def _broken(request: AnyRequest, half: bytes) -> AsyncIterator[bytes]:
    yield half
    drop_connection(request.scope)


async def _drip(content: bytes, bytes_per_second: float) -> AsyncIterator[bytes]:
    for index in range(len(content)):
        yield content[index : index + 1]
        await asyncio.sleep(1 / bytes_per_second)


async def _padded(file: StoredFile) -> AsyncIterator[bytes]:
    yield file.content
    zeros = bytes(_CHUNK)
    left = file.filler_bytes
    while left > 0:
        yield zeros[: min(left, _CHUNK)]
        left -= _CHUNK


@get("/.well-known/jwks.json")
async def jwks(request: AnyRequest) -> Reply:
    headers = {"cache-control": "public, max-age=3600"}
    return reply(200, engine_of(request).signer.jwks(), headers=headers)


@get("/v1/models/pricing")
async def pricing(request: AnyRequest) -> Reply:
    wanted = request.query_params.getall("endpoint_id", [])
    prices = [
        {
            "endpoint_id": endpoint.id,
            "unit_price": endpoint.unit_price,
            "unit": endpoint.unit,
            "currency": "USD",
        }
        for endpoint in ENDPOINTS.values()
        if not wanted or endpoint.id in wanted
    ]
    return reply(200, {"prices": prices})


FILE_ROUTES = [initiate, issue_token, jwks, pricing, put_upload, serve, upload]
