"""One file out of a multipart form, counted while it streams in.

Litestar's own parser keeps every part on disk or in memory before it can be refused, and decodes
parts without a file name as text.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

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
    return SentFile(
        collector.segment.filename or None, collector.segment.content_type, collector.sent
    )


async def _parse(request: Request[Any, Any, Any], boundary: str, collector: _Collector) -> None:
    with PushMultipartParser(boundary, max_segment_count=_PARTS_MAX) as parser:
        async for chunk in request.stream():
            if chunk and not parser.closed:
                for event in parser.parse(chunk):
                    collector.take(event)
                await collector.sent.make_room()


def _invalid(message: str) -> ValidationException:
    return ValidationException(
        message, extra=[{"source": "body", "key": FIELD, "message": message}]
    )
