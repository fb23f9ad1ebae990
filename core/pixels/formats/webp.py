"""WebP (RFC 9649): a walk over the RIFF chunks."""

import msgspec

from core.pixels.formats.base import (
    Colour,
    ImageFormat,
    Layout,
    corrupt,
    le24,
    le32,
    take,
    truncated,
    u8,
)
from core.pixels.formats.exif import read_exif
from core.pixels.limits import PARTS_MAX

_ANIMATION, _XMP, _ALPHA = 0x02, 0x04, 0x10
_PICTURE = frozenset({b"VP8 ", b"VP8L", b"ALPH"})


class WebpLayout(Layout, kw_only=True):
    chunks: list[tuple[bytes, int, int]] = msgspec.field(default_factory=list)
    """Type, start (at the type) and end (with the padding byte)."""


def parse(data: bytes) -> WebpLayout:
    end = 8 + le32(data, 4)
    if end > len(data):
        raise truncated()
    chunks = _walk(data, end)
    by_name: dict[bytes, int] = {}
    for name, start, _ in chunks:
        by_name.setdefault(name, start + 8)
    layout = WebpLayout(
        format=ImageFormat.WEBP,
        width=0,
        height=0,
        bit_depth=8,
        colour=Colour.RGB,
        end=end,
        chunks=chunks,
    )
    _read_picture(data, layout, by_name)
    _read_metadata(data, layout)
    if layout.width == 0:
        raise corrupt("no_picture")
    return layout


def _walk(data: bytes, end: int) -> list[tuple[bytes, int, int]]:
    chunks: list[tuple[bytes, int, int]] = []
    at = 12
    while at + 8 <= end:
        length = le32(data, at + 4)
        if at + 8 + length > end:
            raise truncated()
        stop = min(at + 8 + length + length % 2, end)
        chunks.append((data[at : at + 4], at, stop))
        if len(chunks) > PARTS_MAX:
            raise corrupt("too_many_chunks")
        at = stop
    return chunks


def _read_picture(data: bytes, layout: WebpLayout, by_name: dict[bytes, int]) -> None:
    if b"VP8L" in by_name:
        body = by_name[b"VP8L"]
        if u8(data, body) != 0x2F:
            raise corrupt("lossless_header")
        bits = le32(data, body + 1)
        layout.width, layout.height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        layout.has_alpha, layout.lossless = bool(bits >> 28 & 1), True
    elif b"VP8 " in by_name:
        body = by_name[b"VP8 "]
        if take(data, body + 3, 3) != b"\x9d\x01\x2a":
            raise corrupt("key_frame")
        size = le32(data, body + 6)
        layout.width, layout.height = size & 0x3FFF, size >> 16 & 0x3FFF
    if b"VP8X" in by_name:
        body = by_name[b"VP8X"]
        flags = u8(data, body)
        canvas = le24(data, body + 4) + 1, le24(data, body + 7) + 1
        layout.has_alpha = bool(flags & _ALPHA)
        if flags & _ANIMATION:
            layout.frames = max(2, sum(name == b"ANMF" for name, _, _ in layout.chunks))
        elif layout.width and canvas != (layout.width, layout.height):
            raise corrupt("canvas")
        layout.width, layout.height = canvas


def _read_metadata(data: bytes, layout: WebpLayout) -> None:
    for name, start, stop in layout.chunks:
        if name in _PICTURE or name in {b"VP8X", b"ANMF"}:
            continue
        layout.metadata.append((start, stop))
        if name == b"EXIF":
            block = data[start + 8 : stop]
            # Some writers put JPEG's preamble in front.
            exif = read_exif(block.removeprefix(b"Exif\x00\x00"))
            layout.has_exif = True
            layout.has_gps, layout.orientation = exif.has_gps, exif.orientation


def rebuild(data: bytes, layout: WebpLayout, *, xmp: bytes | None = None) -> bytes:
    """The same compressed picture without metadata, or with this XMP packet alone."""
    kept = [data[start:stop] for name, start, stop in layout.chunks if name in _PICTURE]
    has_separate_alpha = any(name == b"ALPH" for name, _, _ in layout.chunks)
    if xmp is not None or has_separate_alpha:
        flags = (_ALPHA if layout.has_alpha else 0) | (_XMP if xmp is not None else 0)
        canvas = (layout.width - 1).to_bytes(3, "little") + (layout.height - 1).to_bytes(
            3, "little"
        )
        kept.insert(0, b"VP8X" + (10).to_bytes(4, "little") + bytes((flags, 0, 0, 0)) + canvas)
    if xmp is not None:
        kept.append(b"XMP " + len(xmp).to_bytes(4, "little") + xmp + b"\x00" * (len(xmp) % 2))
    body = b"WEBP" + b"".join(part + b"\x00" * (len(part) % 2) for part in kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
