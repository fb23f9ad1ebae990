"""What goes to the pixel processes and comes back. It needs no codec: whoever asks has none."""

from typing import Any

import msgspec

from core.pixels.faults import OutputFault
from core.pixels.formats.base import ImageFormat

RULES = frozenset({"own_pixels_cutout", "packshot", "as_delivered"})
RULES_OF_OWN_PIXELS = RULES - {"as_delivered"}
"""These look at the photo itself; the other needs no more of it than its size."""


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
    notes: tuple[str, ...]
    """What was changed, in words for the user."""


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
