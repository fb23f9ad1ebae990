"""Where the coded pictures of a HEIC lie in the file (ISO/IEC 14496-12, 8.11: iinf and iloc).

Read by hand, because no library tells it. What cannot be read here yields nothing: libheif decides
about the file.
"""

import struct
from collections.abc import Iterator
from typing import Final

from core.pixels.errors import UnsupportedMediaError
from core.pixels.formats.base import be16, be32, take, u8

_CODED: Final = frozenset({b"hvc1", b"av01"})
_ITEMS_MAX: Final = 20_000

# Where something lies: start and end.
Extent = tuple[int, int]


def coded_extents(data: bytes) -> list[Extent]:
    """Of the primary picture, or of the tiles that it is made of. Others are never decoded."""
    try:
        (meta,) = _children(data, 0, len(data), b"meta")
        start, end = meta[0] + 4, meta[1]
        pictures = {_primary(data, start, end)}
        for body, stop in _children(data, start, end, b"iref"):
            pictures |= set(_tiles(data, body, stop, pictures))
        ((items, items_end),) = _children(data, start, end, b"iinf")
        ((places, _),) = _children(data, start, end, b"iloc")
        pictures &= set(_coded_items(data, items, items_end))
        return [extent for item, extent in _places(data, places) if item in pictures]
    except (UnsupportedMediaError, ValueError, struct.error):
        return []


def _primary(data: bytes, start: int, end: int) -> int:
    ((body, _),) = _children(data, start, end, b"pitm")
    return int.from_bytes(take(data, body + 4, 4 if u8(data, body) else 2), "big")


def _tiles(data: bytes, start: int, end: int, of: set[int]) -> Iterator[int]:
    """What the items `of` are derived from."""
    wide = 4 if u8(data, start) else 2
    for body, stop in _children(data, start + 4, end, b"dimg"):
        if int.from_bytes(take(data, body, wide), "big") in of:
            for at in range(body + wide + 2, stop, wide):
                yield int.from_bytes(take(data, at, wide), "big")


def _children(data: bytes, start: int, end: int, wanted: bytes) -> list[Extent]:
    """The bodies of the boxes of a type."""
    found: list[Extent] = []
    for at, stop, name in _boxes(data, start, end):
        if name == wanted:
            found.append((at, stop))
    return found


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    at = start
    while at + 8 <= end:
        size, name, body = be32(data, at), take(data, at + 4, 4), at + 8
        if size == 1:
            size, body = int.from_bytes(take(data, at + 8, 8), "big"), at + 16
        stop = at + size if size else end
        if stop <= at or stop > end:
            return
        yield body, stop, name
        at = stop


def _coded_items(data: bytes, start: int, end: int) -> Iterator[int]:
    first = start + (6 if u8(data, start) == 0 else 8)
    for body, _ in _children(data, first, end, b"infe"):
        version = u8(data, body)
        wide = 4 if version >= 3 else 2
        if version >= 2 and take(data, body + 4 + wide + 2, 4) in _CODED:
            yield int.from_bytes(take(data, body + 4, wide), "big")


def _places(data: bytes, at: int) -> Iterator[tuple[int, Extent]]:
    version, sizes = u8(data, at), be16(data, at + 4)
    offset_size, length_size = sizes >> 12, sizes >> 8 & 15
    base_size, index_size = sizes >> 4 & 15, sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    at += 6

    def number(size: int) -> int:
        nonlocal at
        value = int.from_bytes(take(data, at, size), "big")
        at += size
        return value

    for _ in range(min(number(wide), _ITEMS_MAX)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        for _ in range(number(2)):
            number(index_size)
            start = base + number(offset_size)
            length = number(length_size)
            if method == 0:  # in the file, and not in another box
                yield item, (start, start + length)
