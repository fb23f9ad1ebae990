"""HEIC (ISO/IEC 23008-12): the boxes that describe the primary picture.

libheif would answer the same questions, but it is a large C++ parser, and the API must not hand
it a stranger's bytes; it runs in the worker's pixel processes only.
"""

from collections.abc import Iterator

import msgspec

from core.pixels.formats.base import (
    Colour,
    ImageFormat,
    Layout,
    be16,
    be32,
    corrupt,
    refuse,
    take,
    truncated,
    u8,
)

_BOXES_MAX = 20_000
_PROPERTIES_MAX = 1_000
_TOP_LEVEL = frozenset(
    {b"ftyp", b"meta", b"mdat", b"free", b"skip", b"uuid", b"moov", b"moof", b"mpvd", b"sefd",
     b"wide", b"pdin", b"meco", b"styp", b"udta", b"sidx", b"mfra"}
)  # fmt: skip
_SEQUENCE_BRANDS = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})
_ALPHA_URNS = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
)

Box = tuple[bytes, int, int]
"""Type, start and end of the body."""


class _Meta(msgspec.Struct):
    primary: int = 0
    item_types: dict[int, bytes] = msgspec.field(default_factory=dict)
    properties: list[Box] = msgspec.field(default_factory=list)
    of_primary: list[int] = msgspec.field(default_factory=list)


def parse(data: bytes) -> Layout:
    top, end = _top_level(data)
    meta_boxes = [box for box in top if box[0] == b"meta"]
    if not meta_boxes:
        raise corrupt("no description of the picture")
    meta = _read_meta(data, meta_boxes[0])
    kinds = set(meta.item_types.values())
    if b"av01" in kinds and b"hvc1" not in kinds:
        raise refuse("unknown_type", "This is an AVIF picture. Save it as JPEG, PNG or HEIC.")
    if meta.item_types.get(meta.primary) not in {b"hvc1", b"hev1", b"grid", b"iovl", b"iden"}:
        raise refuse("unknown_type", "This HEIF file holds no HEVC picture. Save it as JPEG.")
    layout = Layout(
        format=ImageFormat.HEIC,
        width=0,
        height=0,
        bit_depth=8,
        colour=Colour.RGB,
        end=end,
        has_exif=b"Exif" in kinds,
        has_gps=None,
        metadata=[(start, stop) for name, start, stop in top if name not in {b"mdat", b"mpvd"}],
    )
    _read_properties(data, layout, meta)
    major = take(data, 8, 4)
    if major in _SEQUENCE_BRANDS and any(name == b"moov" for name, _, _ in top):
        layout.frames = 2
    if layout.width == 0:
        raise corrupt("the picture's size is missing")
    return layout


def _top_level(data: bytes) -> tuple[list[Box], int]:
    """The known boxes at the top, and where they end. What follows is not part of the file."""
    boxes: list[Box] = []
    at = 0
    while at + 8 <= len(data) and data[at + 4 : at + 8] in _TOP_LEVEL:
        name, body, stop = _box(data, at, len(data))
        boxes.append((name, body, stop))
        at = stop
        if len(boxes) > _BOXES_MAX:
            raise corrupt("too many boxes")
    return boxes, at


def _box(data: bytes, at: int, limit: int) -> Box:
    size, name = be32(data, at), take(data, at + 4, 4)
    body = at + 8
    if size == 1:
        size, body = int.from_bytes(take(data, body, 8), "big"), at + 16
    elif size == 0:
        size = limit - at
    if size < body - at:
        raise corrupt("a box without size")
    if at + size > limit:
        raise truncated()
    return name, body, at + size


def _children(data: bytes, start: int, end: int) -> Iterator[Box]:
    at = start
    for _ in range(_BOXES_MAX):
        if at + 8 > end:
            return
        box = _box(data, at, end)
        yield box
        at = box[2]
    raise corrupt("too many boxes")


def _read_meta(data: bytes, box: Box) -> _Meta:
    meta = _Meta()
    associations: list[Box] = []
    for name, start, end in _children(data, box[1] + 4, box[2]):
        if name == b"pitm":
            meta.primary = be32(data, start + 4) if u8(data, start) else be16(data, start + 4)
        elif name == b"iinf":
            entries = start + (8 if u8(data, start) else 6)
            _read_item_types(data, meta, entries, end)
        elif name == b"iprp":
            for child in _children(data, start, end):
                if child[0] == b"ipco":
                    meta.properties = list(_children(data, child[1], child[2]))
                elif child[0] == b"ipma":
                    associations.append(child)
    for association in associations:
        _read_associations(data, meta, association)
    return meta


def _read_item_types(data: bytes, meta: _Meta, start: int, end: int) -> None:
    for name, body, _ in _children(data, start, end):
        if name != b"infe":
            continue
        version = u8(data, body)
        if version == 2:
            meta.item_types[be16(data, body + 4)] = take(data, body + 8, 4)
        elif version >= 3:
            meta.item_types[be32(data, body + 4)] = take(data, body + 10, 4)


def _read_associations(data: bytes, meta: _Meta, box: Box) -> None:
    _, start, end = box
    wide_id, wide_index = u8(data, start) >= 1, bool(u8(data, start + 3) & 1)
    at = start + 8
    for _ in range(min(be32(data, start + 4), _BOXES_MAX)):
        if at >= end:
            return
        item = be32(data, at) if wide_id else be16(data, at)
        at += 4 if wide_id else 2
        count = u8(data, at)
        at += 1
        step = 2 if wide_index else 1
        if len(meta.of_primary) > _PROPERTIES_MAX:
            raise corrupt("too many properties")
        if item == meta.primary:
            for position in range(at, at + count * step, step):
                index = be16(data, position) & 0x7FFF if wide_index else u8(data, position) & 0x7F
                meta.of_primary.append(index)
        at += count * step


def _read_properties(data: bytes, layout: Layout, meta: _Meta) -> None:
    layout.has_alpha = any(
        name == b"auxC" and data[start + 4 : end].rstrip(b"\x00").startswith(_ALPHA_URNS)
        for name, start, end in meta.properties
    )
    for index in meta.of_primary:
        if not 1 <= index <= len(meta.properties):
            continue
        name, start, end = meta.properties[index - 1]
        if name == b"ispe":
            layout.width, layout.height = be32(data, start + 4), be32(data, start + 8)
        elif name == b"pixi" and u8(data, start + 4):
            count = min(u8(data, start + 4), 4)
            layout.bit_depth = max(take(data, start + 5, count))
        elif name == b"hvcC" and end - start >= 18:
            layout.bit_depth = max(layout.bit_depth, (u8(data, start + 17) & 0x07) + 8)
        elif name == b"irot":
            layout.orientation = (1, 8, 3, 6)[u8(data, start) & 0x03]
        elif name == b"colr" and take(data, start, 4) == b"nclx":
            layout.cicp = (be16(data, start + 4), be16(data, start + 6))
