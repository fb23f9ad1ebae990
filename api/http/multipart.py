"""One file out of a multipart form, counted while it streams in.

Litestar's own parser keeps every part on disk or in memory before it can be refused, and decodes
parts without a file name as text.
"""

import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote_to_bytes

from litestar import Request
from litestar.exceptions import ClientException, InternalServerException, ValidationException
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from multipart import (  # type: ignore[import-untyped]  # it has no stubs
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
)

from api.middleware.bodies import expect_photo
from core.pixels import sniff
from core.pixels.errors import PhotoReason, UnsupportedMediaError
from core.pixels.limits import BYTES_MAX
from core.uploads.sent import SentBytes
from core.uploads.types import SentFile

FIELD = "file"
# A file that is too large is read to its end, up to this limit, so that its sender gets the reason:
# most clients do not read an answer while they are still sending.
BODY_BYTES_MAX = 64_000_000
_PARTS_MAX = 16
# Room for a file name of thousands of characters, which is shortened and no reason to refuse.
_HEADER_BYTES_MAX = 32_768
_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*\"?([\w-]*)'[^']*'([^;\"]*)", re.IGNORECASE)


@dataclasses.dataclass
class FileOperation(Operation):
    """Documents the form; the body is read by hand."""

    def __post_init__(self) -> None:
        file = Schema(
            type=OpenAPIType.STRING,
            format=OpenAPIFormat.BINARY,
            description="A JPEG, PNG, WebP, HEIC or TIFF photo of at most 25,000,000 bytes.",
        )
        form = Schema(type=OpenAPIType.OBJECT, properties={FIELD: file}, required=[FIELD])
        self.request_body = RequestBody(
            required=True, content={"multipart/form-data": OpenAPIMediaType(schema=form)}
        )


class _Collector:
    """Keeps the bytes of one field, and only counts what is over the limit."""

    def __init__(self) -> None:
        self.segment: MultipartSegment | None = None
        self.sent = SentBytes()
        self.size_bytes = 0
        self._is_ours = False

    def take(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._is_ours = event.name == FIELD
            if self._is_ours and self.segment is not None:
                raise _invalid("Send one file a request; repeat the request for more")
            if self._is_ours:
                self.segment = event
        elif event and self._is_ours:
            self.size_bytes += len(event)
            if self.size_bytes <= BYTES_MAX:
                self.sent.write(bytes(event))


@contextlib.asynccontextmanager
async def read_file(request: Request[Any, Any, Any]) -> AsyncIterator[SentFile]:
    """The part named `file`, on disk unless it is small, as long as the block lasts.

    Raises: UnsupportedMediaError, PayloadTooLargeError, BodyTooSlowError, ClientException (400).
    """
    media_type, options = request.content_type
    if media_type != "multipart/form-data":
        raise UnsupportedMediaError(
            reason=PhotoReason.NOT_MULTIPART,
            form_field=FIELD,
        )
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > BODY_BYTES_MAX:
        sniff.check_size(int(announced))
    expect_photo(request.scope)
    collector = _Collector()
    try:
        yield await _read(request, options.get("boundary", ""), collector)
    finally:
        collector.sent.close()


async def _read(request: Request[Any, Any, Any], boundary: str, collector: _Collector) -> SentFile:
    try:
        await _parse(request, boundary, collector)
    except MultipartError as error:
        raise ClientException("Invalid multipart/form-data") from error
    except InternalServerException as error:
        raise ClientException("The request ended before its body did") from error
    if collector.segment is None:
        raise _invalid(f"The form has no part named `{FIELD}`")
    sniff.check_size(collector.size_bytes)
    await collector.sent.end()
    return SentFile(_name_of(collector.segment), collector.segment.content_type, collector.sent)


def _name_of(segment: MultipartSegment) -> str | None:
    """What the sender calls the file. No name is refused: it is only shown.

    Headers were read as Latin-1, whose bytes are those that were sent: UTF-8 by all but old
    programs (RFC 7578, 5.1). Some send `filename*`, which forms should not (4.2).
    """
    extended = _EXTENDED_NAME.search(segment.header("Content-Disposition", ""))
    if extended is not None:
        charset, value = extended.groups()
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            return unquote_to_bytes(value).decode(charset or "utf-8") or None
    name: str = segment.filename or ""
    with contextlib.suppress(UnicodeDecodeError):
        name = name.encode("latin-1").decode("utf-8")
    return name or None


async def _parse(request: Request[Any, Any, Any], boundary: str, collector: _Collector) -> None:
    with PushMultipartParser(
        boundary,
        max_segment_count=_PARTS_MAX,
        max_header_size=_HEADER_BYTES_MAX,
        header_charset="latin-1",
    ) as parser:
        async for chunk in request.stream():
            if chunk and not parser.closed:
                for event in parser.parse(chunk):
                    collector.take(event)
                await collector.sent.make_room()


def _invalid(message: str) -> ValidationException:
    return ValidationException(
        message, extra=[{"source": "body", "key": FIELD, "message": message}]
    )
