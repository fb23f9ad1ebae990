"""Shapes that several routes share: pages with an opaque cursor."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from core.errors import InvalidInputError

Item = TypeVar("Item")
Row = TypeVar("Row")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page, newest first. Ask again with `cursor=next_cursor` until it is null."""

    items: list[Item]
    next_cursor: str | None = None


def encode_cursor(*position: Any) -> str:
    """An opaque cursor of the last row's sort keys (str, int, datetime, UUID)."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def page_of(
    found: Sequence[Row],
    limit: int,
    view: Callable[[Row], Item],
    position: Callable[[Row], tuple[Any, ...]],
) -> Page[Item]:
    """The first `limit` of `found`, which was asked for one row more than fits a page."""
    rows = found[:limit]
    more = len(found) > limit
    return Page(
        items=[view(row) for row in rows],
        next_cursor=encode_cursor(*position(rows[-1])) if more else None,
    )


def decode_cursor(cursor: str, *types: Any) -> tuple[Any, ...]:
    """The sort keys in a cursor, as `types`.  Raises: InvalidInputError."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position: tuple[Any, ...] = msgspec.json.decode(raw, type=tuple[types])  # type: ignore[valid-type]  # built at run time
    except (ValueError, binascii.Error, msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidInputError(field="cursor", reason="not_a_cursor_of_this_list") from error
    return position
