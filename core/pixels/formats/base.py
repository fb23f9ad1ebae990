"""What the readers of the formats share: bounded reads, refusals and the result's shape."""

import contextlib
import struct
import warnings
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from core.pixels.errors import PhotoReason, UnsupportedMediaError


class ImageFormat(StrEnum):
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    HEIC = "heic"
    TIFF = "tiff"

    @property
    def content_type(self) -> str:
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """What our keys and files of this format end in."""
        return {ImageFormat.JPEG: "jpg", ImageFormat.TIFF: "tif"}.get(self, self.value)


class Colour(StrEnum):
    GRAY = "gray"
    RGB = "rgb"
    PALETTE = "palette"
    CMYK = "cmyk"
    LAB = "lab"


class Layout(msgspec.Struct, kw_only=True):
    """What a file's structure says. Offsets are into the file; regions are (start, end)."""

    format: ImageFormat
    width: int
    height: int
    bit_depth: int
    colour: Colour
    end: int
    has_alpha: bool = False
    frames: int = 1
    lossless: bool = False
    orientation: int = 1
    has_exif: bool = False
    has_gps: bool = False
    adobe_rgb: bool = False
    cicp: tuple[int, int] | None = None
    """Colour primaries and transfer characteristics (ITU-T H.273), where the file states them."""
    metadata: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """Regions that are searched for pages and scripts."""


def truncated() -> UnsupportedMediaError:
    return UnsupportedMediaError(reason=PhotoReason.TRUNCATED)


def corrupt(part: str) -> UnsupportedMediaError:
    return UnsupportedMediaError(reason=PhotoReason.CORRUPT, part=part)


@contextlib.contextmanager
def codec_errors(part: str) -> Iterator[None]:
    """Around calls of codec libraries, which raise anything at all on hostile bytes.

    Raises: UnsupportedMediaError (truncated, corrupt, too_complex).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnsupportedMediaError:
            raise
        except MemoryError as error:
            raise UnsupportedMediaError(reason=PhotoReason.TOO_COMPLEX) from error
        except Exception as error:
            if isinstance(error, EOFError) or "truncated" in str(error).lower():
                raise truncated() from error
            raise corrupt(part) from error


def take(data: bytes, offset: int, size: int) -> bytes:
    if offset < 0 or size < 0 or offset + size > len(data):
        raise truncated()
    return data[offset : offset + size]


def unpack(layout: str, data: bytes, offset: int) -> tuple[int, ...]:
    if offset < 0 or offset + struct.calcsize(layout) > len(data):
        raise truncated()
    return struct.unpack_from(layout, data, offset)


def u8(data: bytes, offset: int) -> int:
    return take(data, offset, 1)[0]


def be16(data: bytes, offset: int) -> int:
    return int.from_bytes(take(data, offset, 2), "big")


def be32(data: bytes, offset: int) -> int:
    return int.from_bytes(take(data, offset, 4), "big")


def le24(data: bytes, offset: int) -> int:
    return int.from_bytes(take(data, offset, 3), "little")


def le32(data: bytes, offset: int) -> int:
    return int.from_bytes(take(data, offset, 4), "little")
