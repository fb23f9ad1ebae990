"""Why an upload is refused or rejected."""

import uuid
from typing import Any

from core.errors import InJobs, InvalidInputError, Reason


class UploadReason(Reason):
    BYTES_KEPT = "bytes_kept"
    NOT_UPLOADED = "not_uploaded"
    NOT_USABLE = "not_usable"
    ORIGINAL_MISSING = "original_missing"
    PHOTOS_KEPT = "photos_kept"
    PIXELS_PER_MINUTE = "pixels_per_minute"
    PROCESSING_FAILED = "processing_failed"
    UNFINISHED_UPLOADS = "unfinished_uploads"
    UPLOAD_EXPIRED = "upload_expired"
    UPLOAD_IN_USE = "upload_in_use"
    UPLOAD_IN_WORK = "upload_in_work"
    UPLOAD_NOT_READY = "upload_not_ready"
    UPLOADS_IN_HAND = "uploads_in_hand"


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
