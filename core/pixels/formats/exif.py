"""The few facts of an EXIF block that matter: orientation, location, Adobe RGB."""

import msgspec

from core.pixels.errors import UnsupportedMediaError
from core.pixels.formats.base import corrupt, take, unpack

ORIENTATION = 0x0112
EXIF_IFD = 0x8769
GPS_IFD = 0x8825
COLOR_SPACE = 0xA001
INTEROP_IFD = 0xA005
INTEROP_INDEX = 0x0001

_TYPE_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_VALUE_CODE = {1: "B", 3: "H", 4: "I", 13: "I"}
_ENTRIES_MAX = 1_000


class Field(msgspec.Struct):
    """One entry of an IFD: type code, count, and where its values stand."""

    kind: int
    count: int
    offset: int


class Ifd(msgspec.Struct):
    fields: dict[int, Field]
    next_offset: int
    end: int
    """Behind the directory and everything its fields point to, as far as that is told here."""


class ExifFacts(msgspec.Struct):
    orientation: int = 1
    has_gps: bool = False
    adobe_rgb: bool = False


def byte_order(data: bytes) -> str:
    """`<` or `>` for struct. Raises: UnsupportedMediaError."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
    if order is None:
        raise corrupt("byte_order")
    return order


def read_ifd(data: bytes, order: str, offset: int) -> Ifd:
    (count,) = unpack(order + "H", data, offset)
    if count > _ENTRIES_MAX:
        raise corrupt("too_many_entries")
    fields: dict[int, Field] = {}
    end = offset + 6 + count * 12
    for at in range(offset + 2, offset + 2 + count * 12, 12):
        tag, kind, values = unpack(order + "HHI", data, at)
        size = _TYPE_SIZE.get(kind, 0) * values
        if size == 0:
            continue
        (where,) = (at + 8,) if size <= 4 else unpack(order + "I", data, at + 8)
        fields[tag] = Field(kind, values, where)
        end = max(end, where + size)
    after = offset + 2 + count * 12
    # A last directory that stands at the very end sometimes lacks its closing null.
    (following,) = unpack(order + "I", data, after) if after + 4 <= len(data) else (0,)
    return Ifd(fields, following, end)


def values(data: bytes, order: str, field: Field | None, *, at_most: int) -> tuple[int, ...]:
    """The integers of a field, () for one that is missing or not whole numbers."""
    code = _VALUE_CODE.get(field.kind) if field else None
    if field is None or code is None:
        return ()
    return unpack(f"{order}{min(field.count, at_most)}{code}", data, field.offset)


def read_exif(block: bytes) -> ExifFacts:
    """Never raises: an unreadable block is as good as none."""
    facts = ExifFacts()
    try:
        order = byte_order(block)
        root = read_ifd(block, order, unpack(order + "I", block, 4)[0])
        facts.has_gps = GPS_IFD in root.fields
        turned = values(block, order, root.fields.get(ORIENTATION), at_most=1)
        facts.orientation = turned[0] if turned and 1 <= turned[0] <= 8 else 1
        facts.adobe_rgb = _is_adobe_rgb(block, order, root)
    except UnsupportedMediaError:
        return facts
    return facts


def _is_adobe_rgb(block: bytes, order: str, root: Ifd) -> bool:
    """DCF 2.0: colour space "uncalibrated" and interoperability index R03 mean Adobe RGB."""
    camera = values(block, order, root.fields.get(EXIF_IFD), at_most=1)
    if not camera:
        return False
    exif = read_ifd(block, order, camera[0])
    space = values(block, order, exif.fields.get(COLOR_SPACE), at_most=1)
    interop = values(block, order, exif.fields.get(INTEROP_IFD), at_most=1)
    if space != (0xFFFF,) or not interop:
        return False
    index = read_ifd(block, order, interop[0]).fields.get(INTEROP_INDEX)
    return index is not None and take(block, index.offset, 3) == b"R03"
