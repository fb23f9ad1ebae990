"""What is wrong with a photo that was sent."""

from enum import StrEnum

from core.errors import DomainError, InJobs, Reason


class PhotoReason(Reason):
    """Why a file is refused as a photo."""

    ANIMATED = "animated"
    CMYK = "cmyk"
    CORRUPT = "corrupt"
    DECOMPRESSION_BOMB = "decompression_bomb"
    EMPTY_FILE = "empty_file"
    FLOATING_POINT = "floating_point"
    HDR = "hdr"
    LAB = "lab"
    NOT_KEPT = "not_kept"
    NOT_MULTIPART = "not_multipart"
    POLYGLOT = "polyglot"
    SIXTEEN_BIT = "sixteen_bit"
    TOO_COMPLEX = "too_complex"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TRUNCATED = "truncated"
    TYPE_NOT_TAKEN = "type_not_taken"
    UNKNOWN_TYPE = "unknown_type"


class Found(StrEnum):
    """What a file of an unknown type is."""

    AVIF = "avif"
    BIGTIFF = "bigtiff"
    BMP = "bmp"
    CAMERA_RAW = "camera_raw"
    FILM = "film"
    GIF = "gif"
    ICON = "icon"
    JPEG_2000 = "jpeg_2000"
    JPEG_XL = "jpeg_xl"
    PDF = "pdf"
    PHOTOSHOP = "photoshop"
    SVG = "svg"
    UNKNOWN = "unknown"
    WEB_PAGE = "web_page"
    ZIP = "zip"


class Carried(StrEnum):
    """What a picture's file carries besides the picture."""

    FILE = "file"
    PAGE = "page"
    PDF = "pdf"
    SCRIPT = "script"
    ZIP = "zip"


class UnsupportedMediaError(DomainError):
    """A file that is not an image we accept. Which figures there are depends on the reason.

    `part` names the broken part of a corrupt file, for diagnosis.
    """

    in_jobs = InJobs.NEVER

    reason: PhotoReason
    found: Found | None = None
    carried: Carried | None = None
    part: str | None = None
    media_types: tuple[str, ...] = ()
    form_field: str | None = None
    width: int | None = None
    height: int | None = None
    side_min: int | None = None
    bits: int | None = None


class PayloadTooLargeError(DomainError):
    """Which figures there are depends on the reason. Units: bytes, pixels."""

    in_jobs = InJobs.NEVER

    reason: PhotoReason
    size_bytes: int | None = None
    decoded_bytes: int | None = None
    limit_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    limit_pixels: int | None = None
    side_max: int | None = None
