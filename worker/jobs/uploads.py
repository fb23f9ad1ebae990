"""Jobs of uploads: normalise, erase, expire. Each completes its own task."""

import uuid

from core.tasks.outbox import Task
from core.uploads import processing
from core.uploads.processing import ProcessingTools
from core.uploads.types import UploadId
from worker.context import WorkerContext


async def normalise(ctx: WorkerContext, task: Task) -> None:
    """`upload.normalise` {upload_id}"""
    await processing.normalise(
        _tools(ctx), UploadId(uuid.UUID(task.args["upload_id"])), lease_token=task.lease_token
    )


async def erase(ctx: WorkerContext, task: Task) -> None:
    """`upload.erase` {upload_id, user_id}"""
    await processing.erase(
        _tools(ctx),
        user_id=uuid.UUID(task.args["user_id"]),
        upload_id=UploadId(uuid.UUID(task.args["upload_id"])),
        lease_token=task.lease_token,
    )


async def expire(ctx: WorkerContext, task: Task) -> None:
    """`uploads.expire` {}"""
    await processing.expire(ctx.db, lease_token=task.lease_token)


def _tools(ctx: WorkerContext) -> ProcessingTools:
    return ProcessingTools(ctx.db, ctx.storage, ctx.pixels, ctx.settings.storage_bucket_uploads)
