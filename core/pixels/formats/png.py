"""PNG (W3C PNG, third edition): a walk over the chunks."""

import zlib

import msgspec

from core.pixels.formats.base import Colour, ImageFormat, Layout, be32, corrupt, take, truncated, u8
from core.pixels.formats.exif import read_exif
from core.pixels.limits import PARTS_MAX

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_COLOURS = {0: Colour.GRAY, 2: Colour.RGB, 3: Colour.PALETTE, 4: Colour.GRAY, 6: Colour.RGB}
# What tells how the colours are meant, and which way up the picture is (PNG 11.3.2 and 11.3.4).
_COLOUR = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf"})
_PICTURE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


class PngLayout(Layout, kw_only=True):
    chunks: list[tuple[bytes, int, int]] = msgspec.field(default_factory=list)
    """Type, start (at the length) and end (behind the checksum)."""


def parse(data: bytes) -> PngLayout:
    if take(data, 12, 4) != b"IHDR" or be32(data, 8) != 13:
        raise corrupt("header")
    depth, kind = u8(data, 24), u8(data, 25)
    if depth not in _DEPTHS.get(kind, ()):
        raise corrupt("bit_depth")
    layout = PngLayout(
        format=ImageFormat.PNG,
        width=be32(data, 16),
        height=be32(data, 20),
        bit_depth=depth,
        colour=_COLOURS[kind],
        has_alpha=kind in {4, 6},
        lossless=True,
        end=0,
    )
    at = len(SIGNATURE)
    while not layout.end:
        length, name = be32(data, at), take(data, at + 4, 4)
        stop = at + 12 + length
        if stop > len(data):
            raise truncated()
        layout.chunks.append((name, at, stop))
        if len(layout.chunks) > PARTS_MAX:
            raise corrupt("too_many_chunks")
        _note(data, layout, name, at + 8, length)
        at = stop
        if name == b"IEND":
            layout.end = at
    return layout


def _note(data: bytes, layout: PngLayout, name: bytes, body: int, length: int) -> None:
    if name == b"tRNS":
        layout.has_alpha = True
    elif name == b"acTL":
        layout.frames = max(1, be32(data, body))
    elif name == b"cICP" and length == 4:
        layout.cicp = (u8(data, body), u8(data, body + 1))
    elif name == b"eXIf":
        exif = read_exif(data[body : body + length])
        layout.has_exif = True
        layout.has_gps, layout.orientation = exif.has_gps, exif.orientation
    if name not in _PICTURE:
        layout.metadata.append((body - 8, body + length + 4))


def strip(data: bytes, layout: PngLayout, *, with_colour: bool = False) -> bytes:
    """The same compressed picture with its critical chunks only, or with those of its colour."""
    wanted = _PICTURE | _COLOUR if with_colour else _PICTURE
    kept = (data[start:end] for name, start, end in layout.chunks if name in wanted)
    return SIGNATURE + b"".join(kept)


def insert_xmp(data: bytes, packet: bytes) -> bytes:
    """Put an XMP packet behind the header chunk (PNG 11.3.3.4, keyword XML:com.adobe.xmp)."""
    body = b"iTXtXML:com.adobe.xmp\x00\x00\x00\x00\x00" + packet
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    at = len(SIGNATURE) + 25
    return data[:at] + chunk + data[at:]
