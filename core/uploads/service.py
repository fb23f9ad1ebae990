"""A photo comes in: checked before a byte is stored, announced before it is, forgotten if refused.

The order is always intent (a row), bytes, outcome (the row, with its task). Whatever dies in
between leaves a pending row, and the hourly `uploads.expire` ends it and erases its bytes.
"""

import asyncio
import datetime as dt
import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from core import idempotency
from core.db import Connection, Database, Scope
from core.errors import ConflictError, DomainError, NotFoundError
from core.idempotency import IdempotentRequest
from core.ids import new_id
from core.people.service import get_or_open_account
from core.pixels import sniff
from core.pixels.errors import PayloadTooLargeError, UnsupportedMediaError
from core.pixels.formats.base import ImageFormat
from core.storage.errors import StorageUnavailableError
from core.storage.types import Storage
from core.uploads import queries
from core.uploads.errors import UploadReason
from core.uploads.types import (
    DirectUpload,
    SentFile,
    Upload,
    UploadId,
    UploadState,
    clean_file_name,
    declared_extension,
    every_key,
    original_key,
)

log = structlog.get_logger()

SIGNED_SECONDS_MAX: Final = 2 * 3600 + 300
"""The platform signs direct uploads for two hours; five minutes for clocks that differ."""
_LOOK_SECONDS: Final = 0.15
_STATUS_ACCEPTED: Final = 202
_STATUS_CREATED: Final = 201


class UploadTools(msgspec.Struct, frozen=True):
    """What taking a photo in needs of its process."""

    db: Database
    storage: Storage
    bucket: str


class Owner(msgspec.Struct, frozen=True):
    """Who sends: the scope of their transactions, and the network they come from."""

    user_id: uuid.UUID
    scope: Scope
    network: str


class Checked(msgspec.Struct, frozen=True):
    """A file that looks like a photo we take, and the hash that tells it from another."""

    file: SentFile
    format: ImageFormat
    sha256: bytes


async def check_file(file: SentFile) -> Checked:
    """Off the loop: 25 MB take some 40 ms to hash.

    Raises: UnsupportedMediaError, PayloadTooLargeError, with words for the sender.
    """
    return await asyncio.to_thread(_check, file)


def _check(file: SentFile) -> Checked:
    found = sniff.inspect(file.data, filename=file.name, declared_content_type=file.content_type)
    digest = hashlib.sha256(file.data)
    digest.update(b"\0" + (file.name or "").encode("utf-8", "surrogatepass"))
    return Checked(file, found, digest.digest())


async def receive(
    tools: UploadTools,
    owner: Owner,
    checked: Checked,
    *,
    idempotent: IdempotentRequest | None = None,
) -> UploadId:
    """Store a checked file and have it normalised.

    Raises: QuotaError, StorageUnavailableError, RequestInProgressError, IdempotencyMismatchError.
    Replay: an idempotency key answers the upload of its first request.
    """
    upload_id = UploadId(new_id())
    key = original_key(owner.user_id, upload_id, checked.format.extension)

    async def prepare(conn: Connection) -> dict[str, Any] | None:
        stored = await _stored_answer(conn, idempotent)
        if stored is None:
            await get_or_open_account(conn, owner.network)
            await queries.prepare(
                conn, upload_id, storage_key=key, file_name=clean_file_name(checked.file.name)
            )
        return stored

    async def complete(conn: Connection) -> dict[str, Any]:
        # Another request with this key may have come first while the bytes were on their way.
        stored = await _stored_answer(conn, idempotent)
        if stored is not None:
            return stored
        await queries.complete(
            conn,
            upload_id,
            source_format=checked.format.value,
            size_bytes=len(checked.file.data),
        )
        answer = {"upload_id": str(upload_id)}
        if idempotent is not None:
            await idempotency.store(conn, idempotent, status=_STATUS_ACCEPTED, response=answer)
        return answer

    answer = await tools.db.run(prepare, scope=owner.scope)
    if answer is None:
        try:
            await tools.storage.put(
                tools.bucket, key, checked.file.data, checked.format.content_type
            )
            answer = await tools.db.run(complete, scope=owner.scope)
        except (DomainError, asyncio.CancelledError):
            await _forget(tools, owner, upload_id)
            raise
        if answer["upload_id"] != str(upload_id):
            await _forget(tools, owner, upload_id)
    return UploadId(uuid.UUID(answer["upload_id"]))


async def start_direct(
    tools: UploadTools,
    owner: Owner,
    *,
    file_name: str,
    content_type: str,
    size_bytes: int,
    idempotent: IdempotentRequest | None = None,
) -> DirectUpload:
    """A URL to which the owner sends the bytes without us; `complete_direct` then checks them.

    Raises: UnsupportedMediaError, PayloadTooLargeError, QuotaError, StorageUnavailableError.
    """
    extension = declared_extension(content_type)
    sniff.check_size(size_bytes)
    upload_id = UploadId(new_id())
    key = original_key(owner.user_id, upload_id, extension)

    async def prepare(conn: Connection) -> dict[str, Any] | None:
        stored = await _stored_answer(conn, idempotent)
        if stored is None:
            await get_or_open_account(conn, owner.network)
            await queries.prepare(
                conn,
                upload_id,
                storage_key=key,
                file_name=clean_file_name(file_name),
                signed_seconds=SIGNED_SECONDS_MAX,
            )
        return stored

    answer = await tools.db.run(prepare, scope=owner.scope)
    if answer is not None:
        return msgspec.convert(answer, DirectUpload)
    try:
        signed = await tools.storage.sign_upload(tools.bucket, key)
        made = DirectUpload(upload_id, signed.url, content_type, signed.expires_at)
        if idempotent is None:
            return made
        kept = await tools.db.run(lambda conn: _keep(conn, idempotent, made), scope=owner.scope)
    except (DomainError, asyncio.CancelledError):
        await _forget(tools, owner, upload_id)
        raise
    if kept.id != upload_id:
        await _forget(tools, owner, upload_id)
    return kept


async def _keep(
    conn: Connection, idempotent: IdempotentRequest, made: DirectUpload
) -> DirectUpload:
    stored = await _stored_answer(conn, idempotent)
    if stored is not None:
        return msgspec.convert(stored, DirectUpload)
    response: dict[str, Any] = msgspec.to_builtins(made)
    await idempotency.store(conn, idempotent, status=_STATUS_CREATED, response=response)
    return made


async def complete_direct(tools: UploadTools, owner: Owner, upload_id: UploadId) -> Upload:
    """Check what was sent to the URL; what is refused is gone, row and bytes.

    Raises: NotFoundError, ConflictError (reason: upload_expired, not_uploaded),
    UnsupportedMediaError, PayloadTooLargeError, StorageUnavailableError.
    Replay: an upload that was completed before is returned as it is.
    """
    upload = await get(tools.db, owner.scope, upload_id)
    if upload.state is UploadState.EXPIRED:
        raise ConflictError(reason=UploadReason.UPLOAD_EXPIRED, state=upload.state.value)
    if upload.state is not UploadState.PENDING:
        return upload
    try:
        checked = await _fetch_and_check(tools, upload)
    except (UnsupportedMediaError, PayloadTooLargeError):
        await _forget(tools, owner, upload_id)
        raise

    async def complete(conn: Connection) -> None:
        await queries.complete(
            conn,
            upload_id,
            source_format=checked.format.value,
            size_bytes=len(checked.file.data),
        )

    await tools.db.run(complete, scope=owner.scope)
    return await get(tools.db, owner.scope, upload_id)


async def _fetch_and_check(tools: UploadTools, upload: Upload) -> Checked:
    """The size first: the store lets more through than we take."""
    try:
        sniff.check_size(await tools.storage.size(tools.bucket, upload.storage_key))
        data = await tools.storage.get(tools.bucket, upload.storage_key)
    except NotFoundError as error:
        raise ConflictError(reason=UploadReason.NOT_UPLOADED, state=upload.state.value) from error
    return await check_file(SentFile(upload.file_name, _declared_type(upload.storage_key), data))


def _declared_type(storage_key: str) -> str:
    extension = storage_key.rpartition(".")[2]
    return next(kind.content_type for kind in ImageFormat if kind.extension == extension)


async def get(db: Database, scope: Scope, upload_id: uuid.UUID) -> Upload:
    """Raises: NotFoundError, for another's upload too."""
    upload = await db.run(lambda conn: queries.find(conn, upload_id), scope=scope)
    if upload is None:
        raise NotFoundError(kind="upload")
    return upload


async def list_uploads(
    conn: Connection,
    *,
    state: UploadState | None,
    before: tuple[dt.datetime, uuid.UUID] | None,
    limit: int,
) -> list[Upload]:
    """One's own, newest first."""
    return await queries.list_own(conn, limit=limit, state=state, before=before)


async def wait_until_settled(
    db: Database, scope: Scope, upload_id: uuid.UUID, *, seconds: float
) -> Upload:
    """The upload once it is ready or rejected, or as it is when the time is over.

    Looks with short transactions; no connection is held while waiting. Raises: NotFoundError.
    """
    until = time.monotonic() + seconds
    while True:
        upload = await get(db, scope, upload_id)
        if upload.state.is_settled or time.monotonic() + _LOOK_SECONDS > until:
            return upload
        await asyncio.sleep(_LOOK_SECONDS)


async def delete(db: Database, scope: Scope, upload_id: UploadId) -> None:
    """Row at once, bytes by a task. Raises: NotFoundError, ConflictError (upload_in_use, …)."""
    await db.run(lambda conn: queries.delete(conn, upload_id), scope=scope)


async def sign_pictures(
    storage: Storage, bucket: str, uploads: Sequence[Upload], *, seconds: int
) -> dict[str, str]:
    """Signed URLs by key, of all ready photos and thumbnails, in one request.

    While the store is away there are none: what is known of an upload is shown all the same.
    """
    keys = [
        key
        for upload in uploads
        if upload.state is UploadState.READY
        for key in (upload.thumbnail_key, upload.normal_key)
        if key is not None
    ]
    try:
        urls = await storage.sign_many(bucket, keys, seconds)
    except StorageUnavailableError:
        return {}
    return {key: url for key, url in zip(keys, urls, strict=True) if url is not None}


async def _stored_answer(
    conn: Connection, idempotent: IdempotentRequest | None
) -> dict[str, Any] | None:
    if idempotent is None:
        return None
    stored = await idempotency.begin(conn, idempotent)
    return None if stored is None else stored.response


async def _forget(tools: UploadTools, owner: Owner, upload_id: UploadId) -> None:
    """Row first, with the task that erases; then at once what can be reached now."""
    try:
        gone = await tools.db.run(lambda conn: queries.discard(conn, upload_id), scope=owner.scope)
        if gone:
            await tools.storage.delete(tools.bucket, every_key(owner.user_id, upload_id))
    except DomainError as error:
        # The pending row expires, or the task erases: nothing is lost but time.
        log.warning("upload.not_yet_erased", upload_id=str(upload_id), error=type(error).__name__)
