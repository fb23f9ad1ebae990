"""A page of a list. Every list is read here and is `{items, next_cursor}` on the wire.

A cursor holds the sort keys of the last row of its page (its place), so a page costs the same
however deep it lies, and rows that come in meanwhile shift nothing.
"""

import base64
import binascii
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter, SkipValidation

from core.db import Connection, Database, Scope
from core.errors import InputReason, InvalidInputError

Row = TypeVar("Row")
Item = TypeVar("Item")
Place = TypeVar("Place")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page. Ask again with `cursor=next_cursor` until that is null."""

    items: list[Item]
    next_cursor: str | None = None


class PageRequest(msgspec.Struct, frozen=True):
    cursor: str | None
    limit: int


AskedPage: TypeAlias = NamedDependency[SkipValidation[PageRequest]]  # page


def provide_page(
    cursor: Annotated[
        str | None, QueryParameter(description="`next_cursor` of the page before.", max_length=500)
    ] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=100, description="Rows a page.")] = 20,
) -> PageRequest:
    return PageRequest(cursor, limit)


DEPENDENCIES = {"page": Provide(provide_page, sync_to_thread=False)}


class Keyset(Generic[Row, Place]):
    """The order of a list: the fields of a row that give its place."""

    def __init__(self, place_type: type[Place], place_of: Callable[[Row], Place]) -> None:
        self._decoder = msgspec.json.Decoder(place_type)
        self._place_of = place_of

    def cursor_after(self, row: Row) -> str:
        raw = msgspec.json.encode(self._place_of(row))
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def place_in(self, cursor: str | None) -> Place | None:
        """Raises: InvalidInputError."""
        if cursor is None:
            return None
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            return self._decoder.decode(raw)
        except (ValueError, binascii.Error, msgspec.MsgspecError, UnicodeError) as error:
            raise InvalidInputError(field="cursor", reason=InputReason.NOT_A_CURSOR) from error


class _Dated(Protocol):
    @property
    def id(self) -> uuid.UUID: ...
    @property
    def created_at(self) -> datetime: ...


NEWEST_FIRST: Keyset[_Dated, tuple[datetime, uuid.UUID]] = Keyset(
    tuple[datetime, uuid.UUID], lambda row: (row.created_at, row.id)
)


class Found(msgspec.Struct, Generic[Row], frozen=True):
    """The rows of one page, and the cursor of the next."""

    rows: Sequence[Row]
    next_cursor: str | None

    def show(self, view: Callable[[Row], Item]) -> Page[Item]:
        return Page([view(row) for row in self.rows], self.next_cursor)


async def read_page(
    db: Database,
    scope: Scope,
    page: PageRequest,
    order: Keyset[Any, Place],
    rows: Callable[[Connection, Place | None, int], Awaitable[list[Row]]],
) -> Found[Row]:
    """The rows behind `page.cursor`; `rows(conn, place, limit)` is called for one row more.

    Raises: InvalidInputError for a cursor that is none of this list.
    """
    place = order.place_in(page.cursor)

    async def work(conn: Connection) -> list[Row]:
        return await rows(conn, place, page.limit + 1)

    found = await db.run(work, scope=scope)
    if len(found) <= page.limit:
        return Found(found, None)
    kept = found[: page.limit]
    return Found(kept, order.cursor_after(kept[-1]))
