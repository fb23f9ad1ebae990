"""Money in plain words, made of the ledger's rows alone."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from core.credits.types import EntryKind, Source

_SOURCES: dict[Source, str] = {
    Source.PURCHASE: "bought credits",
    Source.SIGNUP: "sign-up credits",
    Source.PROMO: "promotional credits",
    Source.GIFT: "gift credits",
    Source.REFERRAL: "referral credits",
    Source.ADJUSTMENT: "credits from an adjustment",
}


def credits_in_words(amount: int) -> str:
    return "1 credit" if amount == 1 else f"{amount} credits"


def day_in_words(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def source_in_words(source: str | None) -> str:
    return _SOURCES[Source(source)] if source else "credits"


def entry_in_words(row: Mapping[str, Any]) -> str:
    """One sentence for one line. `row`: kind, debit, credit, amount, source, lot_expires_at, and
    where they are known operation and extended_from."""
    return _SENTENCES[EntryKind(row["kind"])](row)


def _grant(row: Mapping[str, Any]) -> str:
    amount, source = credits_in_words(row["amount"]), source_in_words(row["source"])
    if row["credit"] == "debt":
        return f"{amount} of your new {source} paid your debt."
    return f"{amount} came in: {source}{_expiry(row, ', to be spent by ')}."


def _reserve(row: Mapping[str, Any]) -> str:
    purpose = f" for {row['operation']}" if row.get("operation") else ""
    source = source_in_words(row["source"])
    expiry = _expiry(row, ", which expire on ")
    return f"{credits_in_words(row['amount'])} set aside{purpose}, from your {source}{expiry}."


def _confirm(row: Mapping[str, Any]) -> str:
    return f"{credits_in_words(row['amount'])} spent, because the image was delivered."


def _refund(row: Mapping[str, Any]) -> str:
    amount = credits_in_words(row["amount"])
    if row["credit"] == "debt":
        return f"{amount} set aside before did not come back to you, but paid your debt."
    sentence = f"{amount} came back to your {source_in_words(row['source'])}"
    extended_from = row.get("extended_from")
    if extended_from is None:
        return f"{sentence}{_expiry(row, ', which expire on ')}."
    return (
        f"{sentence}. They had expired meanwhile ({day_in_words(extended_from)}), so they now"
        f" live until {day_in_words(row['lot_expires_at'])}."
    )


def _expire(row: Mapping[str, Any]) -> str:
    return f"{credits_in_words(row['amount'])} expired: {source_in_words(row['source'])}."


def _reverse(row: Mapping[str, Any]) -> str:
    amount = credits_in_words(row["amount"])
    if row["debit"] == "debt":
        return f"{amount} of a returned payment were spent already and are now your debt."
    return f"{amount} taken back, because a payment was returned."


def _adjust(row: Mapping[str, Any]) -> str:
    amount = credits_in_words(row["amount"])
    if row["debit"] == "debt":
        return f"{amount} became your debt by a correction."
    return f"{amount} taken back by a correction."


def _expiry(row: Mapping[str, Any], words: str) -> str:
    expires_at = row["lot_expires_at"]
    return f"{words}{day_in_words(expires_at)}" if expires_at else ""


_SENTENCES: dict[EntryKind, Callable[[Mapping[str, Any]], str]] = {
    EntryKind.GRANT: _grant,
    EntryKind.RESERVE: _reserve,
    EntryKind.CONFIRM: _confirm,
    EntryKind.REFUND: _refund,
    EntryKind.EXPIRE: _expire,
    EntryKind.REVERSE: _reverse,
    EntryKind.ADJUST: _adjust,
}
