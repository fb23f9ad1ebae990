"""JPEG (ITU-T T.81): a walk over the markers, and the lossless removal of everything private."""

import re

import msgspec

from core.pixels.errors import PhotoReason, UnsupportedMediaError
from core.pixels.formats.base import (
    Colour,
    ImageFormat,
    Layout,
    be16,
    corrupt,
    take,
    truncated,
    u8,
)
from core.pixels.formats.exif import read_exif
from core.pixels.limits import PARTS_MAX, SCANS_MAX

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"

# In entropy-coded data FF is followed by 00 or a restart; FF FF is fill. All else is a marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")

_TEM, _SOF0, _DHT, _JPG, _DAC, _SOI, _EOI, _SOS, _DQT = (
    0x01, 0xC0, 0xC4, 0xC8, 0xCC, 0xD8, 0xD9, 0xDA, 0xDB,
)  # fmt: skip
_DNL, _DRI, _APP0, _APP1, _APP14 = 0xDC, 0xDD, 0xE0, 0xE1, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_DECODABLE_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_PLAIN_SOF = frozenset({0xC0, 0xC1, 0xC2})
_PROGRESSIVE_SOF = frozenset({0xC2, 0xCA})
_TABLES = frozenset({_DHT, _DQT, _DRI, _DNL, *_PLAIN_SOF})


# It begins with 00: behind an FF, with which a cut may end, anything else would be a marker.
_SPARE = b"\x00" + bytes(range(1, 0xF0)) * 4


class Segment(msgspec.Struct):
    """From its marker to its end; a start of scan reaches to the next marker."""

    marker: int
    start: int
    end: int


class JpegLayout(Layout, kw_only=True):
    segments: list[Segment] = msgspec.field(default_factory=list)
    sof: int = 0
    scans: int = 1
    has_end: bool = True
    """Some cameras, phones and microscopes leave the end-of-image marker out."""


def parse(data: bytes, start: int = 0) -> JpegLayout:
    """The first picture of the file; `end` is behind its end-of-image marker, if it has one: the
    picture's rows decide whether it is complete, not the marker."""
    segments, has_end = _walk(data, start)
    frames = [segment for segment in segments if segment.marker in _SOF]
    if len(frames) != 1:
        raise corrupt("frames")
    frame = frames[0]
    if frame.marker not in _DECODABLE_SOF:
        raise corrupt("frame_kind")
    scans = sum(segment.marker == _SOS for segment in segments)
    if scans > SCANS_MAX:
        raise UnsupportedMediaError(reason=PhotoReason.TOO_COMPLEX)
    body = frame.start + 4
    components = u8(data, body + 5)
    colour = {1: Colour.GRAY, 3: Colour.RGB, 4: Colour.CMYK}.get(components)
    if colour is None:
        raise corrupt("colour_components")
    layout = JpegLayout(
        format=ImageFormat.JPEG,
        width=be16(data, body + 3),
        height=be16(data, body + 1),
        bit_depth=u8(data, body),
        colour=colour,
        end=segments[-1].end,
        segments=segments,
        sof=frame.marker,
        scans=scans,
        has_end=has_end,
    )
    if not has_end and not _is_refined(data, layout):
        raise truncated()
    _read_metadata(data, layout)
    return layout


def with_end(data: bytes, layout: JpegLayout) -> bytes:
    """The picture alone, with the marker at its end."""
    return data[: layout.end] if layout.has_end else data[: layout.end] + EOI


def _is_refined(data: bytes, layout: JpegLayout) -> bool:
    """Whether every coefficient has come with all its bits: a progressive picture without its last
    scans has all rows, and is not the photo (T.81, G.1.1.1)."""
    if layout.sof not in _PROGRESSIVE_SOF:
        return True
    frame = next(segment for segment in layout.segments if segment.marker == layout.sof)
    components = [u8(data, frame.start + 10 + 3 * at) for at in range(u8(data, frame.start + 9))]
    missing = {(component, index) for component in components for index in range(64)}
    for segment in layout.segments:
        if segment.marker != _SOS:
            continue
        count = u8(data, segment.start + 4)
        named = [u8(data, segment.start + 5 + 2 * at) for at in range(count)]
        first, last, bits = take(data, segment.start + 5 + 2 * count, 3)
        if bits & 0x0F == 0:
            missing -= {(each, index) for each in named for index in range(first, last + 1)}
    return not missing


def strip(data: bytes, layout: JpegLayout) -> bytes | None:
    """The same entropy-coded picture without any metadata; None if it must be encoded anew.

    Kept: tables, frame, scans. JFIF is rewritten without its thumbnail and Adobe's marker is
    kept, because decoders take the colour transform from their presence.
    """
    if layout.sof not in _PLAIN_SOF:
        return None
    parts = [SOI]
    for segment in layout.segments:
        if segment.marker in _TABLES or segment.marker == _SOS:
            parts.append(data[segment.start : segment.end])
        elif _is_jfif(data, segment):
            version_and_density = data[segment.start + 9 : segment.start + 16]
            parts.append(b"\xff\xe0\x00\x10JFIF\x00" + version_and_density + b"\x00\x00")
        elif segment.marker == _APP14 and data[segment.start + 4 : segment.start + 9] == b"Adobe":
            parts.append(b"\xff\xee\x00\x0e" + take(data, segment.start + 4, 12))
    parts.append(EOI)
    return b"".join(parts)


def overfill(data: bytes) -> bytes:
    """The same file with bits to spare before its end marker.

    Decoders paint what is missing at a picture's end in gray and only warn. A complete picture
    ignores the spare bits; an incomplete one decodes them and so has other pixels.
    """
    return data[:-2] + _SPARE + EOI


def insert_xmp(data: bytes, packet: bytes) -> bytes:
    """Put an XMP packet behind the JFIF segment of a stripped JPEG."""
    at = 2
    if data[2:4] == b"\xff\xe0":
        at += 2 + be16(data, 4)
    body = b"http://ns.adobe.com/xap/1.0/\x00" + packet
    return data[:at] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[at:]


def _walk(data: bytes, start: int) -> tuple[list[Segment], bool]:
    """The segments, and whether the last of them is the end marker."""
    segments: list[Segment] = []
    at = start + 2
    while True:
        if len(segments) > PARTS_MAX:
            raise corrupt("too_many_segments")
        found = _MARKER.search(data, at)
        if found is None:
            return _without_end(data, segments), False
        marker, begin = data[found.start() + 1], found.start()
        if segments and segments[-1].marker == _SOS:
            segments[-1].end = begin
        if marker == _EOI:
            segments.append(Segment(marker, begin, begin + 2))
            return segments, True
        if marker == _SOI:
            raise corrupt("nested_picture")
        at = begin + 2
        if marker != _TEM:
            length = be16(data, at)
            if length < 2:
                raise corrupt("segment_length")
            at += length
            if at > len(data):
                raise truncated()
        segments.append(Segment(marker, begin, at))


def _without_end(data: bytes, segments: list[Segment]) -> list[Segment]:
    if not segments or segments[-1].marker != _SOS:
        raise truncated()
    segments[-1].end = len(data)
    return segments


def _read_metadata(data: bytes, layout: JpegLayout) -> None:
    for segment in layout.segments:
        if not (_APP0 <= segment.marker <= 0xEF or segment.marker == 0xFE):
            continue
        layout.metadata.append((segment.start, segment.end))
        body = segment.start + 4
        if segment.marker == _APP1 and data[body : body + 6] == b"Exif\x00\x00":
            exif = read_exif(data[body + 6 : segment.end])
            layout.has_exif = True
            layout.has_gps = layout.has_gps or exif.has_gps
            layout.adobe_rgb = exif.adobe_rgb
            if layout.orientation == 1:
                layout.orientation = exif.orientation


def _is_jfif(data: bytes, segment: Segment) -> bool:
    return (
        segment.marker == _APP0
        and segment.end - segment.start >= 18
        and data[segment.start + 4 : segment.start + 9] == b"JFIF\x00"
    )
