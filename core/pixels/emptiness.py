"""Files of full length whose rest never arrived: sync clients and interrupted copies leave zeros.

Decoders of HEIC, WebP and TIFF paint something over the gap and say nothing. JPEG and PNG need no
look: missing rows and checksums tell.
"""

import re
from typing import Final

from core.pixels.formats.base import ImageFormat, Layout, truncated
from core.pixels.formats.heif_items import coded_extents
from core.pixels.formats.webp import WebpLayout

# HEVC escapes zeros (ISO/IEC 23008-2, 7.3.1.1) and VP8 codes arithmetically: compressed pixels hold
# no run of this length.
_RUN_BYTES: Final = 64
_RUN: Final = re.compile(rb"\x00{%d}" % _RUN_BYTES)
# A lossless picture may end in one colour, and a TIFF of plain bytes in black.
_TAIL_BYTES_MIN: Final = 4_096
_LOSSLESS_SHARE: Final = 0.02
_TIFF_SHARE: Final = 0.25
_WEBP_PIXELS: Final = frozenset({b"VP8 ", b"VP8L"})


def check(data: bytes, layout: Layout) -> None:
    """Raises: UnsupportedMediaError (truncated)."""
    match layout.format:
        case ImageFormat.HEIC:
            _check_heic(data)
        case ImageFormat.WEBP:
            assert isinstance(layout, WebpLayout)
            for name, start, stop in layout.chunks:
                if name in _WEBP_PIXELS:
                    _check_webp(data[start + 8 : stop], is_lossless=name == b"VP8L")
        case ImageFormat.TIFF:
            if _zeros_at_end(data) > max(_TAIL_BYTES_MIN, _TIFF_SHARE * len(data)):
                raise truncated()
        case _:
            pass


def _check_heic(data: bytes) -> None:
    for start, end in coded_extents(data):
        if _RUN.search(data, start, min(end, len(data))):
            raise truncated()


def _check_webp(pixels: bytes, *, is_lossless: bool) -> None:
    if not is_lossless:
        if _RUN.search(pixels):
            raise truncated()
    elif _zeros_at_end(pixels) > max(_TAIL_BYTES_MIN, _LOSSLESS_SHARE * len(pixels)):
        raise truncated()


def _zeros_at_end(data: bytes) -> int:
    return len(data) - len(data.rstrip(b"\x00"))
