"""Why an upload is refused or rejected."""

import uuid
from typing import Any

from core.errors import InJobs, InvalidInputError, Reason


class UploadReason(Reason):
    NOT_UPLOADED = "not_uploaded"
    NOT_USABLE = "not_usable"
    ORIGINAL_MISSING = "original_missing"
    PROCESSING_FAILED = "processing_failed"
    UNFINISHED_UPLOADS = "unfinished_uploads"
    UPLOAD_EXPIRED = "upload_expired"
    UPLOAD_IN_USE = "upload_in_use"
    UPLOAD_IN_WORK = "upload_in_work"
    UPLOAD_NOT_READY = "upload_not_ready"


class PhotoRejectedError(InvalidInputError):
    """What the worker found wrong with a photo; `figures` are those of its problem."""

    in_jobs = InJobs.NEVER

    field: str = "file"
    upload_id: uuid.UUID
    figures: dict[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        shown = dict(super().fields)
        return {**shown, **shown.pop("figures", {})}
