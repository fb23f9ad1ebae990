"""What a file is, told from its bytes, and whether it is a picture we take.

Reads headers only: no pixel is decoded and no codec library is called, so the API may run it on
anything a stranger sends. What it cannot tell of HEIC and TIFF is judged where they are decoded.
"""

from collections.abc import Callable
from pathlib import PurePath
from typing import Final

from core.errors import PayloadTooLargeError
from core.pixels import polyglot
from core.pixels.formats import jpeg, png, webp
from core.pixels.formats.base import Colour, ImageFormat, Layout, refuse
from core.pixels.limits import (
    BOMB_PIXELS_MIN,
    BOMB_RATIO,
    BOMB_RATIO_MODERN,
    BYTES_MAX,
    PIXELS_MAX,
    SIDE_MAX,
    SIDE_MIN,
)

CONTENT_TYPES: Final = {
    ImageFormat.JPEG: "image/jpeg",
    ImageFormat.PNG: "image/png",
    ImageFormat.WEBP: "image/webp",
    ImageFormat.HEIC: "image/heic",
    ImageFormat.TIFF: "image/tiff",
}

_NAMES: Final = {
    ImageFormat.JPEG: "JPEG",
    ImageFormat.PNG: "PNG",
    ImageFormat.WEBP: "WebP",
    ImageFormat.HEIC: "HEIC",
    ImageFormat.TIFF: "TIFF",
}
_EXTENSIONS: Final = {
    ImageFormat.JPEG: ("jpg", "jpeg", "jpe", "jfif"),
    ImageFormat.PNG: ("png",),
    ImageFormat.WEBP: ("webp",),
    ImageFormat.HEIC: ("heic", "heif", "hif"),
    ImageFormat.TIFF: ("tif", "tiff"),
}
# Endings that promise another kind of file. An unknown ending ("ring.v2") promises nothing.
_OTHER_EXTENSIONS: Final = frozenset(
    {"gif", "bmp", "ico", "avif", "jxl", "jp2", "svg", "psd", "dng", "cr2", "cr3", "nef", "arw",
     "raf", "orf", "rw2", "eps", "ai", "pdf", "html", "htm", "xhtml", "xml", "js", "mjs", "css",
     "php", "phtml", "asp", "aspx", "jsp", "py", "sh", "bat", "cmd", "exe", "dll", "com", "scr",
     "jar", "apk", "zip", "rar", "7z", "gz", "tar", "txt", "csv", "json", "doc", "docx", "xls",
     "xlsx", "ppt", "pptx", "mp3", "mp4", "m4v", "mov", "avi", "mkv", "webm", "wav"}
)  # fmt: skip
_TYPE_ALIASES: Final = {
    ImageFormat.JPEG: frozenset({"image/jpeg", "image/jpg", "image/pjpeg"}),
    ImageFormat.PNG: frozenset({"image/png", "image/x-png", "image/apng"}),
    ImageFormat.WEBP: frozenset({"image/webp"}),
    ImageFormat.HEIC: frozenset(
        {"image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence"}
    ),
    ImageFormat.TIFF: frozenset({"image/tiff", "image/x-tiff", "image/tif"}),
}
# What phones and scripts send when they do not know; it is not a statement about the bytes.
_UNDECLARED: Final = frozenset(
    {
        "",
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-binary",
        "image/*",
        "*/*",
    }
)
_FOREIGN_MAGIC: Final = (
    (b"GIF8", "a GIF"),
    (b"BM", "a Windows bitmap"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a zip archive or office document"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"II+\x00", "a BigTIFF"),
    (b"MM\x00+", "a BigTIFF"),
    (b"II*\x00\x10\x00\x00\x00CR", "a camera's raw file"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
)
_READERS: Final[dict[ImageFormat, Callable[[bytes], Layout]]] = {
    ImageFormat.JPEG: jpeg.parse,
    ImageFormat.PNG: png.parse,
    ImageFormat.WEBP: webp.parse,
}
_HDR_TRANSFERS: Final = frozenset({16, 18})  # PQ and HLG, ITU-T H.273 table 3
_SEND = "Send a JPEG, PNG, WebP, HEIC or TIFF photo."


def inspect(
    data: bytes, *, filename: str | None = None, declared_content_type: str | None = None
) -> ImageFormat:
    """Accept a file as a picture, or say what is wrong with it, as far as can be told here.

    The headers of JPEG, PNG and WebP are read and judged. HEIC and TIFF pass by their first
    bytes: their headers are read where they are decoded, see `headers`.

    A name or declared type that promises another kind of file is refused
    (`extension_mismatch`): a buyer who renames a file should hear it here, not from a shop that
    rejects the result. No name, no extension, or application/octet-stream promises nothing.

    Raises: UnsupportedMediaError (reason: empty_file, unknown_type, extension_mismatch, and as
    `judge`), PayloadTooLargeError (reason: too_many_bytes, and as `judge`).
    """
    check_size(len(data))
    kind = detect(data)
    _check_promise(kind, filename, declared_content_type)
    if kind in _READERS:
        judge(data, parse(data, kind))
    return kind


def judge(data: bytes, layout: Layout) -> str | None:
    """Whether a picture with this header is taken. The kind of its harmless trailer, if any.

    Raises: UnsupportedMediaError (reason: truncated, corrupt, too_small, animated, sixteen_bit,
    cmyk, lab, hdr, too_complex, polyglot), PayloadTooLargeError (reason: too_many_pixels,
    decompression_bomb).
    """
    _check_dimensions(layout, len(data))
    _check_kind(layout)
    return polyglot.check(data, layout)


def check_size(size_bytes: int) -> None:
    """Also for a declared length, before the body is read."""
    if size_bytes == 0:
        raise refuse("empty_file", f"The file is empty. {_SEND}")
    if size_bytes > BYTES_MAX:
        raise PayloadTooLargeError(
            reason="too_many_bytes",
            limit_bytes=BYTES_MAX,
            detail=f"The file has {size_bytes / 1e6:.1f} MB; at most {BYTES_MAX // 1_000_000} MB "
            "are taken. Save it as JPEG with a quality of about 90.",
        )


def detect(data: bytes) -> ImageFormat:
    """The format by its first bytes. Raises: UnsupportedMediaError (unknown_type)."""
    if data.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if data.startswith(png.SIGNATURE):
        return ImageFormat.PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    foreign = next((name for magic, name in _FOREIGN_MAGIC if data.startswith(magic)), None)
    if foreign is None and data[:4] in {b"II*\x00", b"MM\x00*"}:
        return ImageFormat.TIFF
    if foreign is None and data[4:8] == b"ftyp":
        return _detect_heif(data)
    if foreign is None and data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        foreign = "an SVG drawing" if b"<svg" in data[:4096].lower() else "a web page"
    what = f"This is {foreign}." if foreign else "The file is not a kind of picture we know."
    raise refuse("unknown_type", f"{what} {_SEND}")


def parse(data: bytes, kind: ImageFormat) -> Layout:
    """The structure of a JPEG, PNG or WebP, without judging it. Raises: UnsupportedMediaError."""
    return _READERS[kind](data)


def _detect_heif(data: bytes) -> ImageFormat:
    size = int.from_bytes(data[:4], "big")
    brands = {data[at : at + 4] for at in range(8, min(size, len(data), 256), 4) if at != 12}
    if brands & {b"avif", b"avis"} and not brands & {b"heic", b"heix"}:
        raise refuse("unknown_type", f"This is an AVIF picture. {_SEND}")
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return ImageFormat.HEIC
    raise refuse("unknown_type", f"This is a film or a kind of picture we do not know. {_SEND}")


def _check_promise(kind: ImageFormat, filename: str | None, declared: str | None) -> None:
    extension = PurePath(filename or "").suffix.lower().removeprefix(".")
    claimed = next((known for known, names in _EXTENSIONS.items() if extension in names), None)
    if extension in _OTHER_EXTENSIONS or claimed not in {None, kind}:
        raise refuse(
            "extension_mismatch",
            f"The file's name ends in .{extension}, but it is a {_NAMES[kind]}. Rename it to "
            f".{_EXTENSIONS[kind][0]} or export it again, then send it.",
        )
    media_type = (declared or "").partition(";")[0].strip().lower()
    if media_type not in _UNDECLARED and media_type not in _TYPE_ALIASES[kind]:
        raise refuse(
            "extension_mismatch",
            f"The file was sent as {media_type[:80]}, but it is a {_NAMES[kind]}. Send it as "
            f"{CONTENT_TYPES[kind]} or as application/octet-stream.",
        )


def _check_dimensions(layout: Layout, size_bytes: int) -> None:
    width, height = layout.width, layout.height
    if min(width, height) < SIDE_MIN:
        raise refuse(
            "too_small",
            f"The picture is {width} x {height} pixels; each side needs at least {SIDE_MIN}. "
            "Send the original photo, not its preview.",
        )
    if width * height > PIXELS_MAX or max(width, height) > SIDE_MAX:
        raise PayloadTooLargeError(
            reason="too_many_pixels",
            limit_pixels=PIXELS_MAX,
            detail=f"The picture is {width} x {height} pixels; at most {PIXELS_MAX // 1_000_000} "
            f"megapixels and {SIDE_MAX} pixels a side are taken. Make it smaller.",
        )
    channels = (1 if layout.colour in {Colour.GRAY, Colour.PALETTE} else 3) + layout.has_alpha
    decoded = width * height * channels * max(1, layout.bit_depth // 8)
    modern = layout.format in {ImageFormat.WEBP, ImageFormat.HEIC}
    ratio = BOMB_RATIO_MODERN if modern else BOMB_RATIO
    if width * height > BOMB_PIXELS_MIN and decoded > size_bytes * ratio:
        raise PayloadTooLargeError(
            reason="decompression_bomb",
            limit_pixels=PIXELS_MAX,
            detail=f"{size_bytes} bytes that unpack to {decoded} are no photo. "
            "Send the photo as your camera saved it.",
        )


def _check_kind(layout: Layout) -> None:
    if layout.frames > 1:
        raise refuse(
            "animated",
            "The file holds several pictures or an animation. Send one still photo per file.",
        )
    if layout.colour is Colour.CMYK:
        raise refuse(
            "cmyk",
            "The picture is in CMYK, the colours of print. Convert it to sRGB and send it again.",
        )
    if layout.colour is Colour.LAB:
        raise refuse("lab", "The picture is in Lab colours. Convert it to sRGB and send it again.")
    # HEIC of 10 and 12 bits is what phones and cameras deliver; the worker reduces it to 8.
    if layout.bit_depth > (12 if layout.format is ImageFormat.HEIC else 8):
        raise refuse(
            "sixteen_bit",
            f"The picture has {layout.bit_depth} bits per channel. Save it with 8 bits per "
            "channel (in Photoshop: Image, Mode, 8 Bits/Channel) and send it again.",
        )
    if layout.cicp is not None and layout.cicp[1] in _HDR_TRANSFERS:
        raise refuse(
            "hdr",
            "The picture is an HDR photo (HLG or PQ). Export it as a normal photo and send that.",
        )
