"""What the worker does with a stored upload: normalise or reject it; and erase what is not needed.

Bytes are written before the row says `ready`, under keys that every attempt writes alike, and
erased only after the row says that they are not wanted.
"""

import uuid
from typing import Any, Final, Protocol

import msgspec
import structlog

from core.db import Connection, Database
from core.errors import NotFoundError
from core.pixels import remote
from core.pixels.errors import PayloadTooLargeError, UnsupportedMediaError
from core.pixels.pool import PixelPool, PixelPools
from core.pixels.types import NormalisedImage
from core.settings import Settings
from core.storage.types import Storage
from core.tasks.errors import LeaseLostError
from core.tasks.jobs import DONE, Again, Done, Outcome
from core.tasks.outbox import Task
from core.uploads import queries
from core.uploads.errors import UploadReason
from core.uploads.types import (
    LARGE_LINE,
    Upload,
    UploadId,
    UploadState,
    every_key,
    normal_key,
    original_keys,
    thumbnail_key,
)
from core.words.remark import Remark

log = structlog.get_logger()

# A signed URL is valid for two hours; a day is enough for owners who complete later.
PENDING_SECONDS_MAX: Final = 24 * 3600
_EXPIRED_AT_ONCE: Final = 200
_SERVED_SECONDS: Final = 0.2
_WANTED: Final = frozenset({UploadState.PENDING, UploadState.STORED, UploadState.READY})
_MISSING: Final = Remark(UploadReason.ORIGINAL_MISSING)


_UNPROCESSED: Final = Remark(UploadReason.PROCESSING_FAILED)


class ProcessingTools(Protocol):
    """What uploads need of the process. `db` signs in as the worker."""

    @property
    def db(self) -> Database: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def pixels(self) -> PixelPools: ...
    @property
    def settings(self) -> Settings: ...


class Settlement(msgspec.Struct, frozen=True):
    state: UploadState
    facts: dict[str, Any]


async def normalise(tools: ProcessingTools, task: Task) -> Outcome:
    """`upload.normalise` {line}, with {upload_id} once it had its turn: settle the upload whose
    turn it is and complete the task. There are as many tasks as uploads that wait in the line.

    Raises: RetryableError, LeaseLostError. Replay: a settled upload stays as it is.
    """
    done = await _have_turn(tools, task)
    if isinstance(done, Done | Again):
        return done
    upload, image = done
    upload_id = upload.id
    settlement = image if isinstance(image, Settlement) else await _store(tools, upload, image)

    async def settle(conn: Connection) -> UploadState | None:
        return await queries.settle(
            conn, upload_id, task.lease_token, settlement.state, settlement.facts
        )

    try:
        state = await tools.db.run(settle)
    except LeaseLostError:
        # Another attempt may have rejected it before our bytes were written.
        await _erase_unwanted(tools, upload.user_id, upload_id)
        raise
    log.info(
        "upload.settled",
        upload_id=str(upload_id),
        state=state,
        problem=settlement.facts.get("problem", {}).get("code"),
    )
    return DONE


async def _have_turn(
    tools: ProcessingTools, task: Task
) -> tuple[Upload, NormalisedImage | Settlement] | Outcome:
    """What became of the photo whose turn it was when a process was free, and not before: who
    comes while all are taken is not behind those who came earlier and have more."""
    async with _pool(tools, task).reserve() as process:
        upload = await tools.db.run(lambda conn: _take(conn, task))
        if isinstance(upload, Done | Again):
            return upload
        try:
            bucket = tools.settings.storage_bucket_uploads
            data = await tools.storage.get(bucket, upload.storage_key)
            return upload, await remote.normalise(process, data)
        except NotFoundError:
            return upload, _rejected(_MISSING)
        except (UnsupportedMediaError, PayloadTooLargeError) as error:
            return upload, _rejected(_problem_of(error))


async def _take(conn: Connection, task: Task) -> Upload | Outcome:
    upload_id = await queries.take(conn, task.lease_token)
    if upload_id is not None:
        upload = await queries.find(conn, upload_id)
        return upload if upload and upload.state is UploadState.STORED else DONE
    # Another process may be at the line this moment; then its next turn is for this task.
    is_waiting = await queries.is_anybody_waiting(conn, task.args["line"])
    return Again(_SERVED_SECONDS) if is_waiting else DONE


async def reject_unprocessed(conn: Connection, task: Task) -> None:
    """Rejects the upload of a task that is a dead letter, if it had its turn: what the task was
    claimed with need not name it."""
    upload_id = await queries.find_taken_by(conn, task.id)
    if upload_id is None and "upload_id" in task.args:
        upload_id = _upload_id(task)
    if upload_id is not None:
        facts = _rejected(_UNPROCESSED).facts
        await queries.settle(conn, upload_id, None, UploadState.REJECTED, facts)


def _upload_id(task: Task) -> UploadId:
    return UploadId(uuid.UUID(task.args["upload_id"]))


def _pool(tools: ProcessingTools, task: Task) -> PixelPool:
    is_large = task.args.get("line") == LARGE_LINE
    return tools.pixels.large_photos if is_large else tools.pixels.photos


def _problem_of(error: UnsupportedMediaError | PayloadTooLargeError) -> Remark:
    figures = dict(error.fields)
    return Remark(figures.pop("reason"), figures)


def _rejected(problem: Remark) -> Settlement:
    return Settlement(UploadState.REJECTED, {"problem": msgspec.to_builtins(problem)})


async def _store(tools: ProcessingTools, upload: Upload, image: NormalisedImage) -> Settlement:
    normal = normal_key(upload.user_id, upload.id, image.format.extension)
    thumbnail = thumbnail_key(upload.user_id, upload.id, image.thumbnail_format.extension)
    bucket = tools.settings.storage_bucket_uploads
    try:
        await tools.storage.put(bucket, normal, image.data, image.format.content_type)
        await tools.storage.put(
            bucket, thumbnail, image.thumbnail, image.thumbnail_format.content_type
        )
    except PayloadTooLargeError as error:
        return _rejected(_problem_of(error))
    return Settlement(
        UploadState.READY,
        {
            "normal_key": normal,
            "thumbnail_key": thumbnail,
            "content_type": image.format.content_type,
            "width": image.width,
            "height": image.height,
            "pixel_sha256": image.pixel_sha256,
            "kept_bytes": len(image.data) + len(image.thumbnail),
            "notes": msgspec.to_builtins(image.notes),
        },
    )


async def erase(tools: ProcessingTools, task: Task) -> Outcome:
    """`upload.erase` {upload_id, user_id}: delete what is not needed of an upload's bytes.

    Of a photo that is ready only the file as it was sent goes: the normalised one has its pixels.

    Raises: RetryableError.
    """
    await _erase_unwanted(tools, uuid.UUID(task.args["user_id"]), _upload_id(task))
    return DONE


async def expire(tools: ProcessingTools, _: Task) -> Outcome:
    """`uploads.expire` {}: end uploads that were announced a day ago and never came, and see that
    each that waits to be normalised will be."""

    async def work(conn: Connection) -> int:
        return await queries.expire(
            conn, older_than_seconds=PENDING_SECONDS_MAX, limit=_EXPIRED_AT_ONCE
        )

    while await tools.db.run(work) == _EXPIRED_AT_ONCE:
        pass
    if (added := await tools.db.run(queries.mend_lines)) > 0:
        log.error("upload.line_mended", tasks_added=added)
    return DONE


async def _erase_unwanted(tools: ProcessingTools, user_id: uuid.UUID, upload_id: UploadId) -> None:
    bucket = tools.settings.storage_bucket_uploads
    upload = await tools.db.run(lambda conn: queries.find(conn, upload_id))
    if upload is None or upload.state not in _WANTED:
        await tools.storage.delete(bucket, every_key(user_id, upload_id))
    elif upload.state is UploadState.READY:
        await tools.storage.delete(bucket, original_keys(user_id, upload_id))
