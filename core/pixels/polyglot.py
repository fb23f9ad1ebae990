"""Files that are an image and something else, too.

Phones append harmless things: a second JPEG (multi-picture format, gain map), Samsung's trailer,
a motion photo's film. Those pass, and the worker cuts them off. Anything else behind the picture
is refused, and so are scripts, pages, archives and PDF wherever another program would find them.
"""

import re

from core.errors import UnsupportedMediaError
from core.pixels.formats import jpeg
from core.pixels.formats.base import ImageFormat, Layout, refuse

# PDF readers look for the header in the first 1,024 bytes (ISO 32000-1, annex H.3, note 13).
_PDF_REACH = 1_024
# A zip is found from its end: 22 bytes and a comment of at most 65,535 (APPNOTE 4.3.16).
_ZIP_REACH = 65_535 + 22
_ZIP_END = b"PK\x05\x06"
_PICTURES_MAX = 16

_PAGE_OR_SCRIPT = re.compile(
    rb"<(?:script|html|!doctype|svg|iframe|\?php)[\s>]|%PDF-", re.IGNORECASE
)
_FOREIGN_START = (
    b"PK\x03\x04", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08", b"MZ", b"\x7fELF",
    b"\xca\xfe\xba\xbe", b"#!", b"%PDF-",
)  # fmt: skip
_PADDING = b"\x00\xff \t\r\n"


def check(data: bytes, layout: Layout) -> str | None:
    """The kind of harmless trailer, if there is one. Raises: UnsupportedMediaError."""
    if b"%PDF-" in data[:_PDF_REACH]:
        raise _foreign("a PDF document")
    if _ZIP_END in data[-_ZIP_REACH:]:
        raise _foreign("a zip archive")
    texts = [data[start:end] for start, end in layout.metadata]
    for text in texts:
        if _PAGE_OR_SCRIPT.search(text):
            raise _foreign("a web page or a script in its description")
    # A script that starts with the image's own magic bytes needs a comment to hide the rest.
    if data[4:6] == b"/*" and any(b"*/" in text for text in texts):
        raise _foreign("a script")
    return _check_trailer(data, layout)


def _check_trailer(data: bytes, layout: Layout) -> str | None:
    rest = data[layout.end :]
    if not rest.strip(_PADDING):
        return None
    if rest.startswith(_FOREIGN_START):
        raise _foreign("another file")
    if _PAGE_OR_SCRIPT.search(rest):
        raise _foreign("a web page, a script or a document")
    kind = None
    if layout.format is ImageFormat.JPEG:
        kind, rest = _skip_pictures(rest)
    if not rest.strip(_PADDING):
        return kind
    if rest[4:8] == b"ftyp" or b"mpvd" in rest[:64]:
        return "motion photo"
    if rest.rstrip(_PADDING).endswith(b"SEFT"):
        return "phone maker's data"
    raise _foreign("data that is not part of the picture")


def _skip_pictures(rest: bytes) -> tuple[str | None, bytes]:
    """Step over whole JPEGs (multi-picture format) at the start of the trailer."""
    kind = None
    for _ in range(_PICTURES_MAX):
        body = rest.lstrip(_PADDING[:1])
        if not body.startswith(b"\xff\xd8\xff"):
            break
        try:
            rest = body[jpeg.parse(body).end :]
        except UnsupportedMediaError:
            break
        kind = "second picture"
    return kind, rest


def _foreign(what: str) -> UnsupportedMediaError:
    return refuse(
        "polyglot",
        f"The file is a picture but also carries {what}. Open it in a photo program, export the "
        "picture alone and send that.",
    )
