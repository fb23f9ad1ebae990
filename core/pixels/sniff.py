"""The format of a file by its bytes, and whether it is a picture that we accept.

Reads headers only: no pixel is decoded and no codec library is called, so the API may run it on
whatever a user sends. HEIC and TIFF are checked where they are decoded.
"""

from collections.abc import Callable
from typing import Final

from core.pixels import polyglot
from core.pixels.errors import (
    Found,
    PayloadTooLargeError,
    PhotoReason,
    UnsupportedMediaError,
)
from core.pixels.formats import jpeg, png, webp
from core.pixels.formats.base import Colour, ImageFormat, Layout
from core.pixels.limits import (
    BOMB_PIXELS_MIN,
    BOMB_RATIO,
    BOMB_RATIO_MODERN,
    BYTES_MAX,
    PIXELS_MAX,
    SIDE_MAX,
    SIDE_MIN,
)
from core.pixels.types import Note

_FOREIGN_MAGIC: Final = (
    (b"GIF8", Found.GIF),
    (b"BM", Found.BMP),
    (b"%PDF-", Found.PDF),
    (b"PK\x03\x04", Found.ZIP),
    (b"8BPS", Found.PHOTOSHOP),
    (b"\xff\x0a", Found.JPEG_XL),
    (b"\x00\x00\x00\x0cJXL ", Found.JPEG_XL),
    (b"\x00\x00\x00\x0cjP  ", Found.JPEG_2000),
    (b"\x00\x00\x01\x00", Found.ICON),
    (b"II+\x00", Found.BIGTIFF),
    (b"MM\x00+", Found.BIGTIFF),
    (b"II*\x00\x10\x00\x00\x00CR", Found.CAMERA_RAW),
    (b"FUJIFILMCCD-RAW", Found.CAMERA_RAW),
)
_READERS: Final[dict[ImageFormat, Callable[[bytes], Layout]]] = {
    ImageFormat.JPEG: jpeg.parse,
    ImageFormat.PNG: png.parse,
    ImageFormat.WEBP: webp.parse,
}
_HDR_TRANSFERS: Final = frozenset({16, 18})  # PQ and HLG, ITU-T H.273 table 3


def inspect(data: bytes) -> ImageFormat:
    """As `inspect_layout`, the format alone."""
    return inspect_layout(data)[0]


def inspect_layout(data: bytes) -> tuple[ImageFormat, Layout | None]:
    """Accept a file as a picture, or say what is wrong with it, as far as can be told here.

    The headers of JPEG, PNG and WebP are read and checked. HEIC and TIFF pass by their first
    bytes: their headers are read where they are decoded, see `headers`. Its name and declared
    type are no part of it: phones, browsers and shop systems give photos wrong ones daily, and
    who picks a photo cannot rename it.

    Raises: UnsupportedMediaError (reason: empty_file, unknown_type), PayloadTooLargeError
    (reason: too_many_bytes), and what `check_layout` raises.
    """
    check_size(len(data))
    kind = detect(data)
    if kind not in _READERS:
        return kind, None
    layout = parse(data, kind)
    check_layout(data, layout)
    return kind, layout


def check_layout(data: bytes, layout: Layout) -> Note | None:
    """Whether a picture with this header is taken. The kind of its harmless trailer, if any.

    Raises: UnsupportedMediaError (reason: truncated, corrupt, too_small, animated, sixteen_bit,
    cmyk, lab, hdr, too_complex, polyglot), PayloadTooLargeError (reason: too_many_pixels,
    decompression_bomb).
    """
    _check_dimensions(layout, len(data))
    _check_kind(layout)
    return polyglot.check(data, layout)


def check_size(size_bytes: int) -> None:
    """Also for a declared length, before the body is read."""
    if size_bytes == 0:
        raise UnsupportedMediaError(reason=PhotoReason.EMPTY_FILE)
    if size_bytes > BYTES_MAX:
        raise PayloadTooLargeError(
            reason=PhotoReason.TOO_MANY_BYTES, size_bytes=size_bytes, limit_bytes=BYTES_MAX
        )


def detect(data: bytes) -> ImageFormat:
    """The format by its first bytes. Raises: UnsupportedMediaError (unknown_type)."""
    if data.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if data.startswith(png.SIGNATURE):
        return ImageFormat.PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    foreign = next((name for magic, name in _FOREIGN_MAGIC if data.startswith(magic)), None)
    if foreign is None and data[:4] in {b"II*\x00", b"MM\x00*"}:
        return ImageFormat.TIFF
    if foreign is None and data[4:8] == b"ftyp":
        return _detect_heif(data)
    if foreign is None and data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        foreign = Found.SVG if b"<svg" in data[:4096].lower() else Found.WEB_PAGE
    raise _unknown(foreign or Found.UNKNOWN)


def _unknown(found: Found) -> UnsupportedMediaError:
    return UnsupportedMediaError(reason=PhotoReason.UNKNOWN_TYPE, found=found)


def parse(data: bytes, kind: ImageFormat) -> Layout:
    """The structure of a JPEG, PNG or WebP, unchecked. Raises: UnsupportedMediaError."""
    return _READERS[kind](data)


def _detect_heif(data: bytes) -> ImageFormat:
    size = int.from_bytes(data[:4], "big")
    brands = {data[at : at + 4] for at in range(8, min(size, len(data), 256), 4) if at != 12}
    if brands & {b"avif", b"avis"} and not brands & {b"heic", b"heix"}:
        raise _unknown(Found.AVIF)
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return ImageFormat.HEIC
    raise _unknown(Found.FILM)


def _check_dimensions(layout: Layout, size_bytes: int) -> None:
    width, height = layout.width, layout.height
    if min(width, height) < SIDE_MIN:
        raise UnsupportedMediaError(
            reason=PhotoReason.TOO_SMALL, width=width, height=height, side_min=SIDE_MIN
        )
    if width * height > PIXELS_MAX or max(width, height) > SIDE_MAX:
        raise PayloadTooLargeError(
            reason=PhotoReason.TOO_MANY_PIXELS,
            width=width,
            height=height,
            limit_pixels=PIXELS_MAX,
            side_max=SIDE_MAX,
        )
    channels = (1 if layout.colour in {Colour.GRAY, Colour.PALETTE} else 3) + layout.has_alpha
    decoded = width * height * channels * max(1, layout.bit_depth // 8)
    modern = layout.format in {ImageFormat.WEBP, ImageFormat.HEIC}
    ratio = BOMB_RATIO_MODERN if modern else BOMB_RATIO
    if width * height > BOMB_PIXELS_MIN and decoded > size_bytes * ratio:
        raise PayloadTooLargeError(
            reason=PhotoReason.DECOMPRESSION_BOMB, size_bytes=size_bytes, decoded_bytes=decoded
        )


def _check_kind(layout: Layout) -> None:
    if layout.frames > 1:
        raise UnsupportedMediaError(reason=PhotoReason.ANIMATED)
    if layout.colour is Colour.CMYK:
        raise UnsupportedMediaError(reason=PhotoReason.CMYK)
    if layout.colour is Colour.LAB:
        raise UnsupportedMediaError(reason=PhotoReason.LAB)
    # HEIC of 10 and 12 bits is what phones and cameras deliver; the worker reduces it to 8.
    if layout.bit_depth > (12 if layout.format is ImageFormat.HEIC else 8):
        raise UnsupportedMediaError(reason=PhotoReason.SIXTEEN_BIT, bits=layout.bit_depth)
    if layout.cicp is not None and layout.cicp[1] in _HDR_TRANSFERS:
        raise UnsupportedMediaError(reason=PhotoReason.HDR)
