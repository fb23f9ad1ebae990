"""An upload: its row, its keys in storage, what may be sent."""

import datetime as dt
import uuid
from enum import StrEnum
from typing import Final, NewType

import msgspec

from core.pixels.errors import PhotoReason, UnsupportedMediaError
from core.pixels.formats.base import ImageFormat
from core.settings import Settings
from core.uploads.sent import SentBytes
from core.words.remark import Remark

UploadId = NewType("UploadId", uuid.UUID)

# What may be declared for a direct upload, and the extension of its key.
DECLARABLE: Final = {
    **{kind.content_type: kind.extension for kind in ImageFormat},
    "image/heif": ImageFormat.HEIC.extension,
}
# What programs call them, or say when they do not know: the bytes decide.
_ALIASES: Final = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-jpeg": "image/jpeg",
    "image/jfif": "image/jpeg",
    "application/x-jpg": "image/jpeg",
    "image/x-png": "image/png",
    "image/apng": "image/png",
    "image/heic-sequence": "image/heic",
    "image/heif-sequence": "image/heic",
    "image/tif": "image/tiff",
    "image/x-tiff": "image/tiff",
    **dict.fromkeys(
        ("", "null", "image", "image/*", "*/*", "application/octet-stream", "binary/octet-stream"),
        "image/jpeg",
    ),
}
_SENT: Final = tuple(kind.extension for kind in ImageFormat)
_RENDERED: Final = tuple(
    kind.extension for kind in (ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP)
)
# Of photos that take seconds: the lines are named in app.complete_upload.
LARGE_LINE: Final = "normalise_large"
FILE_NAME_LENGTH_MAX: Final = 255


class UploadState(StrEnum):
    """`pending → stored → ready | rejected`; a pending one may expire, and a ready one of which
    nothing was made."""

    PENDING = "pending"
    STORED = "stored"
    READY = "ready"
    REJECTED = "rejected"
    EXPIRED = "expired"

    @property
    def is_settled(self) -> bool:
        return self not in {UploadState.PENDING, UploadState.STORED}


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """Width and height are those of the normalised photo."""

    id: UploadId
    user_id: uuid.UUID
    state: UploadState
    storage_key: str
    file_name: str | None
    source_format: str | None
    size_bytes: int | None
    normal_key: str | None
    thumbnail_key: str | None
    content_type: str | None
    width: int | None
    height: int | None
    pixel_sha256: str | None
    notes: list[Remark]
    problem: Remark | None
    created_at: dt.datetime
    settled_at: dt.datetime | None


class UploadBounds(msgspec.Struct, frozen=True):
    """What one person may have. No bound of pixels: as fast as they are normalised."""

    unfinished: int
    photos: int
    bytes: int
    pixels_per_minute: int | None


class UploadLimits(msgspec.Struct, frozen=True):
    """Who has bought something and not returned it may have more."""

    free: UploadBounds
    buyer: UploadBounds


def limits_of(settings: Settings) -> UploadLimits:
    return UploadLimits(
        free=UploadBounds(
            unfinished=settings.uploads_unfinished_max,
            photos=settings.uploads_kept_max,
            bytes=settings.uploads_kept_megabytes_max * 1_000_000,
            pixels_per_minute=settings.upload_megapixels_per_minute * 1_000_000,
        ),
        buyer=UploadBounds(
            unfinished=settings.uploads_unfinished_max_buyers,
            photos=settings.uploads_kept_max_buyers,
            bytes=settings.uploads_kept_megabytes_max_buyers * 1_000_000,
            pixels_per_minute=None,
        ),
    )


class SentFile(msgspec.Struct, frozen=True):
    """A file as a form sent it; the name and the type are only what the sender declares."""

    name: str | None
    content_type: str | None
    sent: SentBytes


class DirectUpload(msgspec.Struct, frozen=True):
    """Where and how the owner writes the bytes, without any other credential.

    `url` is None where an earlier request got it and the bytes are there.
    """

    id: UploadId
    url: str | None
    content_type: str
    expires_at: dt.datetime | None
    is_replay: bool


def original_key(user_id: uuid.UUID, upload_id: uuid.UUID, extension: str) -> str:
    """Names of people's files are never part of a key: they would have to be escaped."""
    return f"{user_id}/{upload_id}/original.{extension}"


def normal_key(user_id: uuid.UUID, upload_id: uuid.UUID, extension: str) -> str:
    return f"{user_id}/{upload_id}/normal.{extension}"


def thumbnail_key(user_id: uuid.UUID, upload_id: uuid.UUID, extension: str) -> str:
    return f"{user_id}/{upload_id}/thumb.{extension}"


def original_keys(user_id: uuid.UUID, upload_id: uuid.UUID) -> list[str]:
    """Where the file as it was sent may be."""
    return [original_key(user_id, upload_id, extension) for extension in _SENT]


def every_key(user_id: uuid.UUID, upload_id: uuid.UUID) -> list[str]:
    """All keys that can exist, whatever attempt wrote them: for erasing."""
    return [
        *original_keys(user_id, upload_id),
        *(normal_key(user_id, upload_id, extension) for extension in _RENDERED),
        *(thumbnail_key(user_id, upload_id, extension) for extension in _RENDERED),
    ]


def declared_type(content_type: str) -> str:
    """What a direct upload is announced and signed as. Raises: UnsupportedMediaError."""
    given = content_type.partition(";")[0].strip().lower()
    known = _ALIASES.get(given, given)
    if known not in DECLARABLE:
        raise UnsupportedMediaError(
            reason=PhotoReason.TYPE_NOT_TAKEN,
            media_types=tuple(DECLARABLE),
        )
    return known


def clean_file_name(name: str | None) -> str | None:
    """The last part of a path, of printable characters, short enough to show."""
    if name is None:
        return None
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(char for char in last if char.isprintable()).strip()
    if len(printable) > FILE_NAME_LENGTH_MAX:
        extension = printable.rpartition(".")[2][:10]
        printable = f"{printable[: FILE_NAME_LENGTH_MAX - 11]}.{extension}"
    return printable or None
