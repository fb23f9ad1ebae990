"""The header of a picture of any format, before a pixel of it is decoded. Pixel processes only.

JPEG, PNG and WebP are read by the code that runs in the API, too; HEIC and TIFF by the libraries
that decode them.
"""

from core.pixels import sniff
from core.pixels.formats import heif, tiff
from core.pixels.formats.base import ImageFormat, Layout


def read(data: bytes, kind: ImageFormat) -> Layout:
    """The structure of the file, unchecked. Raises: UnsupportedMediaError."""
    match kind:
        case ImageFormat.HEIC:
            return heif.parse(data)
        case ImageFormat.TIFF:
            return tiff.parse(data)
        case _:
            return sniff.parse(data, kind)
