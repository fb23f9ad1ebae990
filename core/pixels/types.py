"""What goes to the pixel processes and comes back. It needs no codec, because callers have none."""

from enum import StrEnum
from typing import Any

import msgspec

from core.pixels.faults import OutputFault
from core.pixels.formats.base import ImageFormat
from core.words.remark import Remark

RULES = frozenset({"own_pixels_cutout", "packshot", "as_delivered"})
# These read the photo itself; the other needs only its size.
RULES_OF_OWN_PIXELS = RULES - {"as_delivered"}


class Note(StrEnum):
    """What normalising a photo changed, for its owner."""

    ALPHA_REMOVED = "alpha_removed"
    BITS_REDUCED = "bits_reduced"
    CAMERA_DATA_REMOVED = "camera_data_removed"
    FLIPPED = "flipped"
    GRAY_CONVERTED = "gray_converted"
    LOCATION_REMOVED = "location_removed"
    MAKER_DATA_REMOVED = "maker_data_removed"
    MIRRORED = "mirrored"
    MIRRORED_AND_ROTATED = "mirrored_and_rotated"
    MOTION_PHOTO_REMOVED = "motion_photo_removed"
    PROFILE_CONVERTED = "profile_converted"
    PROFILE_OF_ANOTHER_KIND = "profile_of_another_kind"
    PROFILE_UNREADABLE = "profile_unreadable"
    ROTATED_180 = "rotated_180"
    ROTATED_270 = "rotated_270"
    ROTATED_90 = "rotated_90"
    SECOND_PICTURE_REMOVED = "second_picture_removed"
    TRAILER_REMOVED = "trailer_removed"


class NormalisedImage(msgspec.Struct, frozen=True, kw_only=True):
    data: bytes
    format: ImageFormat
    width: int
    height: int
    has_alpha: bool
    pixel_sha256: str
    """Over the decoded pixels of `data`, see `raster.pixel_sha256`."""
    thumbnail: bytes
    thumbnail_format: ImageFormat
    source_format: ImageFormat
    notes: tuple[Remark, ...]
    """What was changed, each a `Note`."""


class OutputRuleError(Exception):
    """The provider's result is not what was ordered: the generation fails and is refunded.

    `detail` is for our records and holds nothing from the provider.
    """

    def __init__(self, reason: OutputFault, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class DecodedInfo(msgspec.Struct, frozen=True, kw_only=True):
    format: ImageFormat
    width: int
    height: int
    has_alpha: bool
    size_bytes: int


class RenderedOutput(msgspec.Struct, frozen=True, kw_only=True):
    data: bytes
    format: ImageFormat
    width: int
    height: int
    pixel_sha256: str
    """Over the decoded pixels of `data`, see `raster.pixel_sha256`."""
    thumbnail: bytes
    thumbnail_format: ImageFormat
    facts: dict[str, Any]
    """JSON-ready statements about the picture, measured on the picture."""
