"""Decoding, encoding, hashing: the few places that call the codecs."""

import hashlib
import io
import struct
import warnings
import zlib
from typing import Final

import pillow_heif
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin

from core.pixels.colour import Space, icc_of
from core.pixels.formats.base import ImageFormat, codec_errors, corrupt
from core.pixels.limits import THUMBNAIL_SIDE
from core.pixels.types import Note

JPEG_QUALITY: Final = 95
# A photo of 4 MP, 2026-11: level 6 takes 1.7 s and 5.2 MB, level 4 0.6 s and 5.1 MB; another one
# 0.75 s and 2.6 MB against 0.3 s and 2.8 MB.
_PNG_LEVEL: Final = 4
_HASH_ROWS: Final = 256
_PLUGINS: Final = {ImageFormat.PNG: "PNG", ImageFormat.WEBP: "WEBP", ImageFormat.TIFF: "TIFF"}

# EXIF 2.32, tag 0x0112: what to do with the stored pixels.
_TRANSPOSE: Final = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, Note.MIRRORED),
    3: (Image.Transpose.ROTATE_180, Note.ROTATED_180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, Note.FLIPPED),
    5: (Image.Transpose.TRANSPOSE, Note.MIRRORED_AND_ROTATED),
    6: (Image.Transpose.ROTATE_270, Note.ROTATED_90),
    7: (Image.Transpose.TRANSVERSE, Note.MIRRORED_AND_ROTATED),
    8: (Image.Transpose.ROTATE_90, Note.ROTATED_270),
}

# One thread: the pool runs as many processes as there are cores to use.
pillow_heif.options.DECODE_THREADS = 1
# Text is cut off before; what is left to unpack is the colour profile, which may hold large tables.
# Pillow's own bound is 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024 * 1024


def decode(data: bytes, kind: ImageFormat) -> Image.Image:
    """All pixels. Raises: UnsupportedMediaError (truncated, corrupt, too_complex)."""
    with codec_errors("pixels"):
        image = _open(data, kind)
        image.load()
    return image


def _open(data: bytes, kind: ImageFormat) -> Image.Image:
    if kind is ImageFormat.JPEG:
        # The class itself: Image.open would hand a multi-picture file to another plugin.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    if kind is ImageFormat.HEIC:
        # libheif applies rotation and mirroring; EXIF's orientation does not count in HEIF.
        # The primary picture alone: others in the file would multiply what it costs to decode.
        return pillow_heif.open_heif(data, convert_hdr_to_8bit=True).to_pillow()
    return Image.open(io.BytesIO(data), formats=[_PLUGINS[kind]])


def orientation(image: Image.Image) -> int:
    """1 to 8. What cannot be read counts as upright."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
        except (OSError, ValueError, TypeError, KeyError, SyntaxError, struct.error, zlib.error):
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn_upright(image: Image.Image, turned: int) -> tuple[Image.Image, Note | None]:
    if turned not in _TRANSPOSE:
        return image, None
    return image.transpose(_TRANSPOSE[turned][0]), turn_note(turned)


def turn_note(turned: int) -> Note | None:
    return _TRANSPOSE[turned][1] if turned in _TRANSPOSE else None


def pixel_sha256(image: Image.Image) -> str:
    """sha256 over mode, size and raw bytes; in bands, so that no second copy is made."""
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode())
    for top in range(0, image.height, _HASH_ROWS):
        bottom = min(top + _HASH_ROWS, image.height)
        digest.update(image.crop((0, top, image.width, bottom)).tobytes())
    return digest.hexdigest()


def encode_jpeg(
    image: Image.Image, *, quality: int = JPEG_QUALITY, with_profile: bool = False
) -> bytes:
    """4:4:4, because gold and stones need colour at full resolution."""
    target = io.BytesIO()
    image.save(
        target,
        "JPEG",
        quality=quality,
        subsampling="4:4:4",
        icc_profile=icc_of(Space.SRGB) if with_profile else None,
    )
    return target.getvalue()


def encode_png(image: Image.Image, *, with_profile: bool = False) -> bytes:
    target = io.BytesIO()
    image.save(
        target,
        "PNG",
        compress_level=_PNG_LEVEL,
        icc_profile=icc_of(Space.SRGB) if with_profile else None,
    )
    return target.getvalue()


def encode_webp(image: Image.Image, *, lossless: bool) -> bytes:
    target = io.BytesIO()
    image.save(
        target, "WEBP", lossless=lossless, quality=95 if not lossless else 75, icc_profile=b""
    )
    return target.getvalue()


def thumbnail(image: Image.Image) -> tuple[bytes, ImageFormat]:
    """At most 512 pixels a side: JPEG, or WebP where there is alpha."""
    small = image.copy() if max(image.size) <= THUMBNAIL_SIDE else _shrink(image)
    small.info = {}
    target = io.BytesIO()
    if small.mode == "RGBA":
        small.save(target, "WEBP", quality=85)
        return target.getvalue(), ImageFormat.WEBP
    small.save(target, "JPEG", quality=85)
    return target.getvalue(), ImageFormat.JPEG


def _shrink(image: Image.Image) -> Image.Image:
    scale = THUMBNAIL_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def flatten_modes(image: Image.Image) -> Image.Image:
    """Any decodable picture as RGB or RGBA. Raises: UnsupportedMediaError (corrupt)."""
    if image.mode in {"RGB", "RGBA"} and "transparency" not in image.info:
        return image
    if image.mode in {"LA", "PA", "La", "RGBa", "RGBA"} or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        return image.convert("RGBA")
    if image.mode in {"1", "L", "P", "RGBX", "YCbCr"}:
        return image.convert("RGB")
    raise corrupt("pixel_kind")


def drop_opaque_alpha(image: Image.Image) -> tuple[Image.Image, bool]:
    """An alpha channel that hides nothing is dropped; True if that happened."""
    if image.mode != "RGBA" or image.getchannel("A").getextrema() != (255, 255):
        return image, False
    return image.convert("RGB"), True
