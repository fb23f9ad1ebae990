"""TIFF 6.0: the directories, read by Pillow. Pixel processes only."""

import io
from typing import Final

from PIL import ExifTags, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from core.pixels.errors import Found, PhotoReason, UnsupportedMediaError
from core.pixels.formats.base import Colour, ImageFormat, Layout, codec_errors, corrupt

_DNG_VERSION: Final = 50706
# A photo has one, or previews beside it; each may cost as much time as the file has bytes.
_PAGES_MAX: Final = 8
_TAIL_BYTES: Final = 4_096
_LOSSY: Final = frozenset({6, 7, 34712})
_COLOURS: Final = {
    0: Colour.GRAY,
    1: Colour.GRAY,
    2: Colour.RGB,
    3: Colour.PALETTE,
    5: Colour.CMYK,
    6: Colour.RGB,
    8: Colour.LAB,
    9: Colour.LAB,
}
_WHOLE_NUMBERS: Final = frozenset({1, 4})  # 6.0, section 19: unsigned, and undefined


def parse(data: bytes) -> Layout:
    with codec_errors("directory"):
        first, pages = _directories(data)
        colour = _COLOURS.get(_number(first, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 2))
        if colour is None or _DNG_VERSION in first:
            raise UnsupportedMediaError(reason=PhotoReason.UNKNOWN_TYPE, found=Found.CAMERA_RAW)
        if _number(first, TiffImagePlugin.SAMPLEFORMAT, 1) not in _WHOLE_NUMBERS:
            raise UnsupportedMediaError(reason=PhotoReason.FLOATING_POINT)
        plain = {Colour.RGB: 3, Colour.CMYK: 4, Colour.LAB: 3}.get(colour, 1)
        samples = _number(first, TiffImagePlugin.SAMPLESPERPIXEL, 1)
        return Layout(
            format=ImageFormat.TIFF,
            width=_number(first, TiffImagePlugin.IMAGEWIDTH, 0),
            height=_number(first, TiffImagePlugin.IMAGELENGTH, 0),
            bit_depth=max(_numbers(first, TiffImagePlugin.BITSPERSAMPLE) or [1]),
            colour=colour,
            has_alpha=samples > plain and _number(first, TiffImagePlugin.EXTRASAMPLES, 1) != 0,
            frames=max(1, pages),
            lossless=_number(first, TiffImagePlugin.COMPRESSION, 1) not in _LOSSY,
            orientation=_number(first, ExifTags.Base.Orientation, 1),
            has_exif=ExifTags.IFD.Exif in first,
            has_gps=ExifTags.IFD.GPSInfo in first,
            # A TIFF does not state its end, so what other programs look for is searched for in its
            # last bytes. All of it goes: a TIFF is always encoded anew.
            end=len(data),
            metadata=[(max(0, len(data) - _TAIL_BYTES), len(data))],
        )


def _directories(data: bytes) -> tuple[ImageFileDirectory_v2, int]:
    """The first, and how many there are that are no previews."""
    file = io.BytesIO(data)
    directory = ImageFileDirectory_v2(data[:8])
    first = None
    pages = 0
    seen: set[int] = set()
    # A directory without its own end points to the file's first one: it is the last one, too.
    while directory.next and directory.next not in seen:
        if len(seen) >= _PAGES_MAX:
            raise corrupt("too_many_directories")
        seen.add(directory.next)
        file.seek(directory.next)
        directory = ImageFileDirectory_v2(data[:8])
        directory.load(file)
        first = directory if first is None else first
        pages += not _number(directory, ExifTags.Base.NewSubfileType, 0) & 1
    if first is None:
        raise corrupt("no_picture")
    return first, pages


def _number(directory: ImageFileDirectory_v2, tag: int, default: int) -> int:
    found = _numbers(directory, tag)
    return found[0] if found else default


def _numbers(directory: ImageFileDirectory_v2, tag: int) -> list[int]:
    value = directory.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return [number for number in values if isinstance(number, int)]
