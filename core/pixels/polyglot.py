"""Files that are an image and something else, too.

Nearly all that stands behind a picture is harmless: a second JPEG (multi-picture format, gain map),
a motion photo's film, records and depth maps of cameras and phones. It passes, and the worker cuts
it off, as it drops all metadata: neither is searched. Refused is what another program would open:
a tail that begins as an archive, a program, a page or a PDF, an archive found from the file's end,
a PDF's header where readers look for it, and a script hidden behind the picture's magic bytes.
"""

import re
import struct
from typing import Final

from core.pixels.errors import Carried, PhotoReason, UnsupportedMediaError
from core.pixels.formats import jpeg
from core.pixels.formats.base import ImageFormat, Layout
from core.pixels.types import Note

# PDF readers look for the header in the first 1,024 bytes (ISO 32000-1, annex H.3, note 13).
_PDF_REACH: Final = 1_024
# A zip is found from its end: 22 bytes and a comment of at most 65,535 (APPNOTE 4.3.16).
_ZIP_REACH: Final = 65_535 + 22
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_ENTRY: Final = b"PK\x01\x02"
_PICTURES_MAX: Final = 16

_PAGE_OR_SCRIPT: Final = re.compile(
    rb"(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,1000}?-->\s*)?"
    rb"<(?:script|html|head|body|!doctype\s+html|svg|iframe|\?php|\?=)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
_FOREIGN_START: Final = (
    b"PK\x03\x04", b"PK\x05\x06", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08", b"MZ",
    b"\x7fELF", b"\xca\xfe\xba\xbe", b"#!", b"%PDF-", b"*/",
)  # fmt: skip
_PADDING: Final = b"\x00\xff \t\r\n"


def check(data: bytes, layout: Layout) -> Note | None:
    """What the removal of a harmless trailer is called. Raises: UnsupportedMediaError."""
    if b"%PDF-" in data[:_PDF_REACH]:
        raise _carries(Carried.PDF)
    if _ends_as_zip(data):
        raise _carries(Carried.ZIP)
    # A script that starts with the image's own magic bytes needs a comment to hide the rest.
    if data[4:6] == b"/*" and any(b"*/" in data[start:end] for start, end in layout.metadata):
        raise _carries(Carried.SCRIPT)
    if layout.format is ImageFormat.TIFF:
        _check_last_bytes(data, layout)
    return _check_trailer(data, layout)


def _check_last_bytes(data: bytes, layout: Layout) -> None:
    """A TIFF does not state its end: what begins in its last bytes may be behind the picture."""
    for start, end in layout.metadata:
        if b"%PDF-" in data[start:end]:
            raise _carries(Carried.PDF)
        if _PAGE_OR_SCRIPT.search(data, start, end):
            raise _carries(Carried.PAGE)


def _ends_as_zip(data: bytes) -> bool:
    """Whether an archive's end record fits the file: four bytes alone come by chance."""
    at = len(data)
    reach = max(0, len(data) - _ZIP_REACH)
    while (at := data.rfind(_ZIP_END, reach, at)) >= 0:
        if at + 22 <= len(data):
            size, _, comment = struct.unpack_from("<IIH", data, at + 12)
            entries = int.from_bytes(data[at + 10 : at + 12], "little")
            # Bytes in front of an archive, as here, shift its offsets: only the size counts.
            fits = at + 22 + comment == len(data) and 0 < size <= at
            if fits and entries and data[at - size : at - size + 4] == _ZIP_ENTRY:
                return True
    return False


def _check_trailer(data: bytes, layout: Layout) -> Note | None:
    rest = data[layout.end :]
    kind = None
    _refuse_foreign(rest)
    if layout.format is ImageFormat.JPEG:
        kind, rest = _skip_pictures(rest)
        _refuse_foreign(rest)
    if not rest.strip(_PADDING):
        return kind
    if rest[4:8] == b"ftyp" or b"mpvd" in rest[:64]:
        return Note.MOTION_PHOTO_REMOVED
    if rest.rstrip(_PADDING).endswith(b"SEFT"):
        return Note.MAKER_DATA_REMOVED
    return kind or Note.TRAILER_REMOVED


def _refuse_foreign(rest: bytes) -> None:
    """What begins here begins where the picture ends: another program would take it for its own."""
    begins = rest.lstrip(_PADDING + b"\xef\xbb\xbf\x0b\x0c")
    if begins.startswith(_FOREIGN_START):
        raise _carries(Carried.FILE)
    if _PAGE_OR_SCRIPT.match(begins[:4_096]):
        raise _carries(Carried.PAGE)


def _skip_pictures(rest: bytes) -> tuple[Note | None, bytes]:
    """Step over whole JPEGs (multi-picture format) at the start of the trailer."""
    kind = None
    for _ in range(_PICTURES_MAX):
        body = rest.lstrip(_PADDING[:1])
        if not body.startswith(b"\xff\xd8\xff"):
            break
        try:
            layout = jpeg.parse(body)
        except UnsupportedMediaError:
            break
        rest = body[layout.end :]
        kind = Note.SECOND_PICTURE_REMOVED
    return kind, rest


def _carries(what: Carried) -> UnsupportedMediaError:
    return UnsupportedMediaError(reason=PhotoReason.POLYGLOT, carried=what)
