"""Files that are refused before anything is stored, each with the word that says why."""

import zlib

from PIL import Image

from tests.unit.pixels import images


def _animated() -> bytes:
    frames = [images.quadrants(), images.photo(192, 128)]
    return images.encode(frames[0], "webp", save_all=True, append_images=frames[1:], duration=100)


def _bomb() -> bytes:
    """A PNG header that promises 49 MP of nothing."""
    rows = zlib.compress(bytes(7000 * 3 + 1) * 7000, 9)
    header = images.png_header(7000, 7000)
    return header[:33] + images.png_chunk(b"IDAT", rows) + images.png_chunk(b"IEND", b"")


# What is kept of a photo that is ready.
RENDERED = ["normal", "thumb"]

JPEG = images.encode(images.photo(), "jpeg", quality=90)
PNG = images.encode(images.photo(), "png")

REFUSED: dict[str, tuple[bytes, str, int, str]] = {
    "empty": (b"", "ring.jpg", 415, "empty_file"),
    "text": (b"hello, I am a photo", "ring.jpg", 415, "unknown_type"),
    "pdf": (b"%PDF-1.7 ...", "ring.jpg", 415, "unknown_type"),
    "truncated": (PNG[: len(PNG) // 2], "ring.png", 415, "truncated"),
    "polyglot": (JPEG + b"PK\x03\x04" + bytes(40), "ring.jpg", 415, "polyglot"),
    "page_behind": (JPEG + b"<script>alert(1)</script>", "ring.jpg", 415, "polyglot"),
    "sixteen_bit": (images.png_sixteen_bit(), "ring.png", 415, "sixteen_bit"),
    "cmyk": (
        images.encode(images.photo().convert("CMYK"), "jpeg"), "ring.jpg", 415, "cmyk",
    ),
    "animated": (_animated(), "ring.webp", 415, "animated"),
    "one_pixel": (
        images.encode(Image.new("RGB", (1, 1)), "png"), "ring.png", 415, "too_small",
    ),
    "bomb": (_bomb(), "ring.png", 413, "decompression_bomb"),
    "too_many_pixels": (images.png_header(9000, 9000), "ring.png", 413, "too_many_pixels"),
    "too_many_bytes": (JPEG + bytes(25_000_000), "ring.jpg", 413, "too_many_bytes"),
}  # fmt: skip
