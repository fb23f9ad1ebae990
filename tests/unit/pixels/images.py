"""Builders of good and bad pictures. Everything is made here; only the two samples are files."""

import functools
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

SAMPLES = Path(__file__).parents[2] / "data" / "samples"

FORMATS = ("jpeg", "png", "webp", "heic", "tiff")

# Stored pixels are the upright picture with the inverse of what each orientation asks for.
_INVERSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def sample(name: str = "ring.jpg") -> bytes:
    return (SAMPLES / name).read_bytes()


def quadrants(width: int = 192, height: int = 128) -> Image.Image:
    """Red, green, blue and yellow corners: no symmetry, so that each orientation differs."""
    image = Image.new("RGB", (width, height), (220, 40, 30))
    image.paste((40, 200, 60), (width // 2, 0, width, height // 2))
    image.paste((40, 60, 210), (0, height // 2, width // 2, height))
    image.paste((230, 220, 40), (width // 2, height // 2, width, height))
    return image


def photo(width: int = 160, height: int = 120, *, seed: int = 7) -> Image.Image:
    """Smooth gradients with a little noise, as a photo has."""
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    x, y = np.linspace(0, 200, width), np.linspace(20, 180, height)[:, None]
    base = np.stack(np.broadcast_arrays(x + 0 * y, y + 0 * x, (x + y) / 2), axis=-1)
    return Image.fromarray(np.clip(base + noise + 20, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    if kind == "heic":
        pillow_heif.from_pillow(image).save(target, **({"quality": 80} | options))
    else:
        image.save(target, kind.upper(), **options)
    return target.getvalue()


def oriented(kind: str, orientation: int) -> bytes:
    """`quadrants()` as a camera stores it when held that way."""
    method = _INVERSE[orientation]
    stored = quadrants() if method is None else quadrants().transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "tiff":
        return encode(stored, kind, tiffinfo={0x0112: orientation})
    return encode(stored, kind, exif=exif.tobytes())


def exif_with_location(secret: str = "SECRET-MAKER") -> bytes:
    exif = Image.Exif()
    exif[0x010F] = secret
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 30.0)
    return exif.tobytes()


def insert_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def insert_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    return png[:33] + png_chunk(name, body) + png[33:]


def png_header(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    """A PNG of stated size with hardly any data: what a bomb looks like from outside."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
        + png_chunk(b"IEND", b"")
    )


def png_sixteen_bit(side: int = 80) -> bytes:
    rows = b"".join(b"\x00" + bytes((row, 0, 0, 7, 9, row)) * side for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def pixels(image: Image.Image | bytes) -> NDArray[np.int16]:
    opened = decode(image) if isinstance(image, bytes) else image
    return np.asarray(opened).astype(np.int16)


def _zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.txt", "hello")
    return target.getvalue()


# What turns a picture into something else, too, when it stands behind it.
FOREIGN_TAILS = [
    _zip(),
    b"\x00" * 64 + _zip(),
    b"<html><script>alert(1)</script></html>",
    b"%PDF-1.7\n1 0 obj\n",
    b"MZ\x90\x00" + b"\x00" * 60,
    b"*/=1;alert(1)//",
]


@functools.cache
def cut_out_of(name: str = "ring", size: tuple[int, int] | None = None) -> bytes:
    """What a provider returns: other colours than the source's, and the true alpha."""
    mask = Image.open(SAMPLES / f"{name}.mask.png").convert("L")
    if size:
        mask = mask.resize(size, Image.Resampling.LANCZOS)
    repainted = Image.new("RGB", mask.size, (255, 0, 255))
    repainted.putalpha(mask)
    return encode(repainted, "png")
