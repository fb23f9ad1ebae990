"""Which sentence tells a line of the ledger. The sentences themselves stand in core/words."""

from collections.abc import Mapping
from typing import Any

from core.credits.types import EntryKind
from core.words.say import say


def entry_in_words(row: Mapping[str, Any]) -> str:
    """One sentence for one line. `row`: kind, debit, credit, amount, source, lot_expires_at, and
    where they are known operation and extended_from."""
    return say(
        f"entry.{row['kind']}.{_variant(row)}",
        amount=row["amount"],
        source=row["source"] or "none",
        until=row["lot_expires_at"],
        operation=row.get("operation"),
        extended_from=row.get("extended_from"),
    )


def _variant(row: Mapping[str, Any]) -> str:
    until = "until" if row["lot_expires_at"] else "plain"
    match EntryKind(row["kind"]):
        case EntryKind.GRANT:
            return "debt" if row["credit"] == "debt" else until
        case EntryKind.RESERVE:
            return f"{until}_for" if row.get("operation") else until
        case EntryKind.REFUND if row["credit"] == "debt":
            return "debt"
        case EntryKind.REFUND:
            return "extended" if row.get("extended_from") else until
        case EntryKind.REVERSE | EntryKind.ADJUST:
            return "debt" if row["debit"] == "debt" else "plain"
        case EntryKind.CONFIRM | EntryKind.EXPIRE:
            return "plain"
