"""TIFF 6.0: the directories, not the strips."""

from core.pixels.formats.base import Colour, ImageFormat, Layout, corrupt, refuse, truncated, unpack
from core.pixels.formats.exif import GPS_IFD, ORIENTATION, Ifd, byte_order, read_ifd, values

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 277, 279, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _EXIF_IFD, _DNG_VERSION = 338, 339, 34665, 50706

_PAGES_MAX = 64
_STRIPS_MAX = 200_000
_LOSSY = frozenset({6, 7, 34712})
_COLOURS = {
    0: Colour.GRAY,
    1: Colour.GRAY,
    2: Colour.RGB,
    3: Colour.PALETTE,
    5: Colour.CMYK,
    6: Colour.RGB,
    8: Colour.LAB,
    9: Colour.LAB,
}


def parse(data: bytes) -> Layout:
    order = byte_order(data)
    pages = _pages(data, order)
    first = pages[0]

    def number(tag: int, default: int) -> int:
        found = values(data, order, first.fields.get(tag), at_most=1)
        return found[0] if found else default

    colour = _COLOURS.get(number(_PHOTOMETRIC, 2))
    if colour is None or _DNG_VERSION in first.fields:
        raise refuse(
            "unknown_type",
            "This is a camera's raw file. Export it as JPEG or as an 8-bit TIFF and send that.",
        )
    bits = values(data, order, first.fields.get(_BITS), at_most=8) or (1,)
    if number(_SAMPLE_FORMAT, 1) not in {1, 4}:
        raise refuse(
            "sixteen_bit",
            "The TIFF stores floating point numbers. Save it with 8 bits per channel.",
        )
    end = max(*(page.end for page in pages), _strips_end(data, order, first))
    plain = {Colour.RGB: 3, Colour.CMYK: 4, Colour.LAB: 3}.get(colour, 1)
    extra = values(data, order, first.fields.get(_EXTRA_SAMPLES), at_most=1)
    real_pages = [page for page in pages if not _is_preview(data, order, page)]
    return Layout(
        format=ImageFormat.TIFF,
        width=number(_WIDTH, 0),
        height=number(_HEIGHT, 0),
        bit_depth=max(bits),
        colour=colour,
        has_alpha=number(_SAMPLES, 1) > plain and extra[:1] != (0,),
        frames=max(1, len(real_pages)),
        lossless=number(_COMPRESSION, 1) not in _LOSSY,
        orientation=number(ORIENTATION, 1),
        has_exif=_EXIF_IFD in first.fields,
        has_gps=GPS_IFD in first.fields,
        # Nothing says where a TIFF ends: directories that only others know may follow. So all of
        # it is the file, and what no directory points to is looked at for scripts and pages.
        end=len(data),
        metadata=[(end, len(data))] if end < len(data) else [],
    )


def _pages(data: bytes, order: str) -> list[Ifd]:
    pages: list[Ifd] = []
    seen: set[int] = set()
    (offset,) = unpack(order + "I", data, 4)
    while offset:
        if offset in seen or len(pages) >= _PAGES_MAX:
            raise corrupt("directories in a circle, or too many")
        seen.add(offset)
        pages.append(read_ifd(data, order, offset))
        offset = pages[-1].next_offset
    if not pages:
        raise corrupt("no picture inside")
    return pages


def _is_preview(data: bytes, order: str, page: Ifd) -> bool:
    kind = values(data, order, page.fields.get(_SUBFILE), at_most=1)
    return bool(kind) and bool(kind[0] & 1)


def _strips_end(data: bytes, order: str, page: Ifd) -> int:
    """Behind the last strip or tile. Raises: UnsupportedMediaError, if that is outside the file."""
    for where, how_much in ((_STRIP_OFFSETS, _STRIP_SIZES), (_TILE_OFFSETS, _TILE_SIZES)):
        if where not in page.fields:
            continue
        if page.fields[where].count > _STRIPS_MAX:
            raise corrupt("too many strips")
        offsets = values(data, order, page.fields[where], at_most=_STRIPS_MAX)
        sizes = values(data, order, page.fields.get(how_much), at_most=_STRIPS_MAX)
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)]
        last = max((*offsets, *ends), default=0)
        if last > len(data):
            raise truncated()
        return last
    raise corrupt("no picture inside")
