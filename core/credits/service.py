"""Credits: what a user has, and every entry of the ledger that led to it.

The money itself moves in SQL functions only. Users write through `app.start_generation`.
"""

import uuid
from typing import Any

import msgspec

from core.credits import queries, words
from core.credits.types import (
    Balance,
    Change,
    Entry,
    EntryFacts,
    EntryFilters,
    Lot,
    Overview,
    Position,
)
from core.db import Connection, fetch_one
from core.errors import NotFoundError


async def get_balance(conn: Connection, user_id: uuid.UUID) -> Balance:
    """What can be spent now, what is held for open work, what is owed.

    Raises: NotFoundError.
    """
    row = await queries.find_balance(conn, user_id)
    if row is None:
        raise NotFoundError(kind="credit_account")
    return msgspec.convert(row, Balance)


async def get_overview(conn: Connection, user_id: uuid.UUID) -> Overview:
    """The balance, and what of it expires when.

    Raises: NotFoundError.
    """
    balance = await get_balance(conn, user_id)
    return Overview(balance, msgspec.convert(await queries.list_lots(conn, user_id), list[Lot]))


async def list_entries(
    conn: Connection,
    user_id: uuid.UUID,
    *,
    filters: EntryFilters,
    after: Position | None,
    limit: int,
) -> list[Entry]:
    """The ledger of a user, newest first; `after` is the position of the last entry before.

    `balance_after` of an entry is known in an unfiltered list only.
    """
    rows = await queries.list_entries(
        conn,
        user_id,
        before_id=after.entry_id if after else None,
        limit=limit,
        kinds=[kind.value for kind in filters.kinds],
        subject_id=filters.generation_id,
    )
    balance = _starting_balance(rows, filters, after)
    entries = []
    for row in rows:
        entry = _entry(row, balance)
        entries.append(entry)
        balance = entry.position.balance
    return entries


async def adjust_credits(
    conn: Connection, user_id: uuid.UUID, amount: int, *, reason: str, key: str
) -> Balance:
    """An admin's correction, up or down, with its audit row; the balance afterwards.

    Raises: NotAllowedError, NotFoundError, InvalidInputError, IdempotencyMismatchError.
    Replay: the same key and terms do nothing more.
    """
    row = await fetch_one(
        conn,
        "select app.adjust_credits(%s, %s, %s, %s) as balance",
        (user_id, amount, reason, key),
    )
    assert row is not None
    return msgspec.convert(row["balance"], Balance)


async def expire_credits(conn: Connection, *, accounts_max: int) -> int:
    """Post the expiry of lots that are past their time; the credits expired. For the worker."""
    row = await fetch_one(conn, "select app.expire_credits(%s) as expired", (accounts_max,))
    assert row is not None
    return int(row["expired"])


def _starting_balance(
    rows: list[dict[str, Any]], filters: EntryFilters, after: Position | None
) -> Balance | None:
    """The balance after the page's first entry."""
    if not filters.is_empty or not rows:
        return None
    if after is not None:
        return after.balance
    return Balance(rows[0]["available"], rows[0]["reserved"], rows[0]["debt"])


def _entry(row: dict[str, Any], balance_after: Balance | None) -> Entry:
    facts = {name: row[name] for name in Entry.__struct_fields__ if name in row}
    told = {
        "change": _change(row),
        "text": words.entry_in_words(msgspec.convert(row, EntryFacts)),
        "balance_after": balance_after,
    }
    return msgspec.convert({**facts, **told}, Entry)


def _change(row: dict[str, Any]) -> Change:
    """A debit takes from available and reserved; debt is what is owed, so there it adds."""

    def moved(account: str) -> int:
        sign = int(row["credit"] == account) - int(row["debit"] == account)
        return sign * int(row["amount"])

    return Change(moved("available"), moved("reserved"), -moved("debt"))
