"""Uploads: checked before a byte is stored, announced before that, and deleted if refused.

The order is always intent (a row), bytes, outcome (the row, with its task). A crash in between
leaves a pending row, and the hourly `uploads.expire` ends it and erases its bytes.
"""

import asyncio
import datetime as dt
import hashlib
import uuid
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from core import idempotency
from core.db import Connection, Database, Scope
from core.errors import ConflictError, DomainError, NotFoundError
from core.idempotency import IdempotentRequest
from core.ids import new_id
from core.pixels import cost, sniff
from core.pixels.errors import PayloadTooLargeError, UnsupportedMediaError
from core.pixels.formats.base import ImageFormat
from core.storage.errors import StorageUnavailableError
from core.storage.types import Storage
from core.uploads import queries
from core.uploads.errors import UploadReason
from core.uploads.places import UploadPlaces
from core.uploads.sent import SentBytes
from core.uploads.types import (
    DECLARABLE,
    DirectUpload,
    SentFile,
    Upload,
    UploadId,
    UploadLimits,
    UploadState,
    clean_file_name,
    declared_type,
    every_key,
    original_key,
)

log = structlog.get_logger()

# The platform signs direct uploads for two hours; five minutes for clocks that differ.
SIGNED_SECONDS_MAX: Final = 2 * 3600 + 300
_STATUS_ACCEPTED: Final = 202
_STATUS_CREATED: Final = 201


class UploadTools(msgspec.Struct, frozen=True):
    """What uploads need of the API's process."""

    db: Database
    storage: Storage
    bucket: str
    limits: UploadLimits
    places: UploadPlaces


class Owner(msgspec.Struct, frozen=True):
    """The person who sends: one with an account, and the scope of their transactions."""

    user_id: uuid.UUID
    scope: Scope


class Checked(msgspec.Struct, frozen=True):
    """A file that looks like a photo we accept, and the hash that identifies it."""

    file: SentFile
    format: ImageFormat
    sha256: bytes
    cost_pixels: int


class Taken(msgspec.Struct, frozen=True):
    """An upload that was taken in, now or by an earlier request with the same key."""

    id: UploadId
    is_replay: bool


async def check_file(places: UploadPlaces, file: SentFile) -> Checked:
    """Off the loop: 25 MB take some 40 ms to hash.

    Raises: UnsupportedMediaError, PayloadTooLargeError, with words for the sender.
    """
    async with places.checking:
        return await asyncio.to_thread(_check, file)


def _check(file: SentFile) -> Checked:
    data = file.sent.read()
    found, layout = sniff.inspect_layout(data)
    digest = hashlib.sha256(data)
    digest.update(b"\0" + (file.name or "").encode("utf-8", "surrogatepass"))
    return Checked(file, found, digest.digest(), cost.of_file(data, found, layout))


async def receive(
    tools: UploadTools, owner: Owner, checked: Checked, *, claim: IdempotentRequest | None = None
) -> Taken:
    """Store a checked file and have it normalised.

    Raises: QuotaError, StorageUnavailableError, RequestInProgressError, IdempotencyMismatchError.
    Replay: an idempotency key answers the upload of its first request.
    """
    upload_id = UploadId(new_id())
    key = original_key(owner.user_id, upload_id, checked.format.extension)

    async def prepare(conn: Connection) -> Taken | None:
        first = await _find_first(conn, claim)
        if first is None:
            await queries.prepare(
                conn,
                upload_id,
                tools.limits,
                extension=checked.format.extension,
                file_name=clean_file_name(checked.file.name),
                cost_pixels=checked.cost_pixels,
            )
        return first

    async def complete(conn: Connection) -> Taken:
        # Another request with this key may have come first while the bytes were on their way.
        first = await _find_first(conn, claim)
        if first is not None:
            return first
        await queries.complete(
            conn,
            upload_id,
            tools.limits,
            source_format=checked.format.value,
            size_bytes=checked.file.sent.size_bytes,
            cost_pixels=checked.cost_pixels,
        )
        return await _keep(conn, claim, upload_id, status=_STATUS_ACCEPTED)

    taken = await tools.db.run(prepare, scope=owner.scope)
    if taken is None:
        try:
            await tools.storage.put(
                tools.bucket, key, checked.file.sent.content, checked.format.content_type
            )
            taken = await tools.db.run(complete, scope=owner.scope)
        except (DomainError, asyncio.CancelledError):
            await _discard(tools, owner, upload_id)
            raise
        if taken.is_replay:
            await _discard(tools, owner, upload_id)
    return taken


async def start_direct(
    tools: UploadTools,
    owner: Owner,
    *,
    file_name: str,
    content_type: str,
    size_bytes: int,
    claim: IdempotentRequest | None = None,
) -> DirectUpload:
    """A URL to which the owner sends the bytes without us; `complete_direct` then checks them.

    Raises: UnsupportedMediaError, PayloadTooLargeError, QuotaError, StorageUnavailableError.
    Replay: an idempotency key goes on with its first upload. Its URL is not stored but signed
    again, as long as no bytes are there.
    """
    content_type = declared_type(content_type)
    extension = DECLARABLE[content_type]
    sniff.check_size(size_bytes)
    minted = UploadId(new_id())

    async def prepare(conn: Connection) -> Taken:
        first = await _find_first(conn, claim)
        taken = first or Taken(minted, is_replay=False)
        await queries.prepare(
            conn,
            taken.id,
            tools.limits,
            extension=extension,
            file_name=clean_file_name(file_name),
            signed_seconds=SIGNED_SECONDS_MAX,
        )
        return first or await _keep(conn, claim, minted, status=_STATUS_CREATED)

    taken = await tools.db.run(prepare, scope=owner.scope)
    key = original_key(owner.user_id, taken.id, extension)
    try:
        return await _sign_direct(tools, owner, taken, key, content_type)
    except (DomainError, asyncio.CancelledError):
        if claim is None:  # with a key, the same request goes on with this upload
            await _discard(tools, owner, taken.id)
        raise


async def _sign_direct(
    tools: UploadTools, owner: Owner, taken: Taken, key: str, content_type: str
) -> DirectUpload:
    if taken.is_replay:
        upload = await get(tools.db, owner.scope, taken.id)
        if upload.state is not UploadState.PENDING:
            return DirectUpload(taken.id, None, content_type, None, is_replay=True)
    try:
        signed = await tools.storage.sign_upload(tools.bucket, key)
    except ConflictError:
        if not taken.is_replay:
            raise
        return DirectUpload(taken.id, None, content_type, None, is_replay=True)
    return DirectUpload(
        taken.id, signed.url, content_type, signed.expires_at, is_replay=taken.is_replay
    )


async def _find_first(conn: Connection, claim: IdempotentRequest | None) -> Taken | None:
    """What the first request with this key took in."""
    stored = await idempotency.begin(conn, claim) if claim is not None else None
    if stored is None:
        return None
    return Taken(UploadId(uuid.UUID(stored.response["upload_id"])), is_replay=True)


async def _keep(
    conn: Connection, claim: IdempotentRequest | None, upload_id: UploadId, *, status: int
) -> Taken:
    if claim is not None:
        response = {"upload_id": str(upload_id)}
        await idempotency.store(conn, claim, status=status, response=response)
    return Taken(upload_id, is_replay=False)


async def complete_direct(tools: UploadTools, owner: Owner, upload_id: UploadId) -> Upload:
    """Check what was sent to the URL; what is refused is deleted, row and bytes.

    Raises: NotFoundError, ConflictError (reason: upload_expired, not_uploaded),
    UnsupportedMediaError, PayloadTooLargeError, StorageUnavailableError, QuotaError,
    TemporarilyUnavailableError: then it stays pending, and may be completed later.
    Replay: an upload that was completed before is returned as it is.
    """
    upload = await get(tools.db, owner.scope, upload_id)
    if upload.state is UploadState.EXPIRED:
        raise ConflictError(reason=UploadReason.UPLOAD_EXPIRED, state=upload.state.value)
    if upload.state is not UploadState.PENDING:
        return upload
    try:
        async with tools.places.hold(owner.user_id):
            checked = await _fetch_and_check(tools, upload)
    except (UnsupportedMediaError, PayloadTooLargeError):
        await _discard(tools, owner, upload_id)
        raise

    async def complete(conn: Connection) -> None:
        await queries.complete(
            conn,
            upload_id,
            tools.limits,
            source_format=checked.format.value,
            size_bytes=checked.file.sent.size_bytes,
            cost_pixels=checked.cost_pixels,
        )

    await tools.db.run(complete, scope=owner.scope)
    return await get(tools.db, owner.scope, upload_id)


async def _fetch_and_check(tools: UploadTools, upload: Upload) -> Checked:
    """The size first: the store accepts larger files than we do."""
    try:
        sniff.check_size(await tools.storage.size(tools.bucket, upload.storage_key))
        async with tools.places.checking:
            sent = SentBytes.of(await tools.storage.get(tools.bucket, upload.storage_key))
            file = SentFile(upload.file_name, _declared_type(upload.storage_key), sent)
            return await asyncio.to_thread(_check, file)
    except NotFoundError as error:
        raise ConflictError(reason=UploadReason.NOT_UPLOADED, state=upload.state.value) from error


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


async def delete(db: Database, scope: Scope, upload_id: UploadId) -> None:
    """Row at once, bytes by a task. Raises: NotFoundError, ConflictError (upload_in_use, …)."""
    await db.run(lambda conn: queries.delete(conn, upload_id), scope=scope)


async def sign_pictures(
    storage: Storage, bucket: str, uploads: Sequence[Upload], *, seconds: int
) -> dict[str, str]:
    """Signed URLs by key, of all ready photos and thumbnails, in one request.

    While the store is unavailable there are none: the rest of an upload is shown all the same.
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


async def _discard(tools: UploadTools, owner: Owner, upload_id: UploadId) -> None:
    """Deletes the row, with a task that erases; then the bytes at once, if the store answers."""
    try:
        gone = await tools.db.run(lambda conn: queries.discard(conn, upload_id), scope=owner.scope)
        if gone:
            await tools.storage.delete(tools.bucket, every_key(owner.user_id, upload_id))
    except DomainError as error:
        # Later the pending row expires, or the task erases the bytes.
        log.warning("upload.not_yet_erased", upload_id=str(upload_id), error=type(error).__name__)
