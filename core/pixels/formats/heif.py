"""HEIC (ISO/IEC 23008-12), described by libheif before it decodes. Pixel processes only.

libheif is a large C++ parser: the API, which holds every secret, never passes it bytes of users.
"""

from typing import Any

import pillow_heif

from core.pixels.formats.base import (
    Colour,
    ImageFormat,
    Layout,
    be32,
    codec_errors,
    corrupt,
    take,
    truncated,
)
from core.pixels.formats.exif import read_exif

_BOXES_MAX = 20_000
_TOP_LEVEL = frozenset(
    {b"ftyp", b"meta", b"mdat", b"free", b"skip", b"uuid", b"moov", b"moof", b"mpvd", b"sefd",
     b"wide", b"pdin", b"meco", b"styp", b"udta", b"sidx", b"mfra"}
)  # fmt: skip
_PIXELS_OR_FILM = frozenset({b"mdat", b"mpvd"})
_SEQUENCE_BRANDS = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})
# What a viewer does to the stored pixels, as EXIF would say it (2.32, tag 0x0112): the angle is
# counter-clockwise, the axis of a mirror 0 for horizontal and 1 for vertical (6.5.10, 6.5.12).
_ORIENTATIONS = {
    (): 1,
    (("imir", 1),): 2,
    (("irot", 180),): 3,
    (("imir", 0),): 4,
    (("irot", 270), ("imir", 1)): 5,
    (("irot", 270),): 6,
    (("irot", 270), ("imir", 0)): 7,
    (("irot", 90),): 8,
}

# Type, start and end.
Box = tuple[bytes, int, int]


def parse(data: bytes) -> Layout:
    """Width and height are those of the upright picture: libheif turns, mirrors and crops it."""
    boxes, end = _boxes(data)
    with codec_errors("description"):
        file = pillow_heif.open_heif(data[:end])
        image = file[file.primary_index]
        info: dict[str, Any] = image.info
        exif: bytes | None = info["exif"]
        stated = info.get("nclx_profile")
        turned = image._c_image.transformations  # noqa: SLF001  it is told nowhere else
    facts = read_exif(exif.removeprefix(b"Exif\x00\x00")) if exif else None
    is_sequence = take(data, 8, 4) in _SEQUENCE_BRANDS and any(box[0] == b"moov" for box in boxes)
    return Layout(
        format=ImageFormat.HEIC,
        width=image.size[0],
        height=image.size[1],
        bit_depth=info["bit_depth"],
        colour=Colour.GRAY if image.mode.startswith(("L", "I")) else Colour.RGB,
        end=end,
        has_alpha=image.has_alpha,
        frames=2 if is_sequence else 1,
        orientation=_ORIENTATIONS.get(tuple(step for step in turned if step[0] != "clap"), 1),
        has_exif=exif is not None,
        has_gps=facts is not None and facts.has_gps,
        cicp=(stated["color_primaries"], stated["transfer_characteristics"]) if stated else None,
        metadata=[(start, stop) for name, start, stop in boxes if name not in _PIXELS_OR_FILM],
    )


def _boxes(data: bytes) -> tuple[list[Box], int]:
    """The known boxes at the top, and where they end. What follows is not part of the file."""
    boxes: list[Box] = []
    at = 0
    while at + 8 <= len(data) and data[at + 4 : at + 8] in _TOP_LEVEL:
        size = be32(data, at)
        if size == 1:
            size = int.from_bytes(take(data, at + 8, 8), "big")
        elif size == 0:
            size = len(data) - at
        if size < 8:
            raise corrupt("box_size")
        if at + size > len(data):
            raise truncated()
        boxes.append((data[at + 4 : at + 8], at, at + size))
        at += size
        if len(boxes) > _BOXES_MAX:
            raise corrupt("too_many_boxes")
    return boxes, at
