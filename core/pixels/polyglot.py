"""Files that are an image and something else, too.

Phones append harmless things: a second JPEG (multi-picture format, gain map), Samsung's trailer,
a motion photo's film. Those pass, and the worker cuts them off. Anything else behind the picture
is refused, and so are scripts, pages, archives and PDF wherever another program would find them.
"""

import re

from core.pixels.errors import Carried, PhotoReason, UnsupportedMediaError
from core.pixels.formats import jpeg
from core.pixels.formats.base import ImageFormat, Layout
from core.pixels.types import Note

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


def check(data: bytes, layout: Layout) -> Note | None:
    """What the removal of a harmless trailer is called. Raises: UnsupportedMediaError."""
    if b"%PDF-" in data[:_PDF_REACH]:
        raise _carries(Carried.PDF)
    if _ZIP_END in data[-_ZIP_REACH:]:
        raise _carries(Carried.ZIP)
    texts = [data[start:end] for start, end in layout.metadata]
    for text in texts:
        if _PAGE_OR_SCRIPT.search(text):
            raise _carries(Carried.PAGE_IN_DESCRIPTION)
    # A script that starts with the image's own magic bytes needs a comment to hide the rest.
    if data[4:6] == b"/*" and any(b"*/" in text for text in texts):
        raise _carries(Carried.SCRIPT)
    return _check_trailer(data, layout)


def _check_trailer(data: bytes, layout: Layout) -> Note | None:
    rest = data[layout.end :]
    if not rest.strip(_PADDING):
        return None
    if rest.startswith(_FOREIGN_START):
        raise _carries(Carried.FILE)
    if _PAGE_OR_SCRIPT.search(rest):
        raise _carries(Carried.PAGE)
    kind = None
    if layout.format is ImageFormat.JPEG:
        kind, rest = _skip_pictures(rest)
    if not rest.strip(_PADDING):
        return kind
    if rest[4:8] == b"ftyp" or b"mpvd" in rest[:64]:
        return Note.MOTION_PHOTO_REMOVED
    if rest.rstrip(_PADDING).endswith(b"SEFT"):
        return Note.MAKER_DATA_REMOVED
    raise _carries(Carried.UNKNOWN)


def _skip_pictures(rest: bytes) -> tuple[Note | None, bytes]:
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
        kind = Note.SECOND_PICTURE_REMOVED
    return kind, rest


def _carries(what: Carried) -> UnsupportedMediaError:
    return UnsupportedMediaError(reason=PhotoReason.POLYGLOT, carried=what)
