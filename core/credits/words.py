"""Which sentence describes a line of the ledger. The sentences themselves stand in core/words."""

from core.credits.types import EntryFacts, EntryKind
from core.words.say import say


def entry_in_words(entry: EntryFacts) -> str:
    """One sentence for one line."""
    return say(
        f"entry.{entry.kind}.{_variant(entry)}",
        amount=entry.amount,
        source=entry.source or "none",
        until=entry.lot_expires_at,
        operation=entry.operation,
        extended_from=entry.extended_from,
    )


def _variant(entry: EntryFacts) -> str:
    until = "until" if entry.lot_expires_at else "plain"
    match entry.kind:
        case EntryKind.GRANT:
            return "debt" if entry.credit == "debt" else until
        case EntryKind.RESERVE:
            return f"{until}_for" if entry.operation else until
        case EntryKind.REFUND:
            extended = "extended" if entry.extended_from else until
            return "debt" if entry.credit == "debt" else extended
        case EntryKind.RESTORE:
            return _variant_of_restore(entry) or until
        case EntryKind.REVERSE | EntryKind.ADJUST:
            return "debt" if entry.debit == "debt" else "plain"
        case EntryKind.CONFIRM | EntryKind.EXPIRE:
            return "share" if entry.is_share else "plain"


def _variant_of_restore(entry: EntryFacts) -> str | None:
    """None where credits simply come back to their lot."""
    if entry.debit == "debt":
        return "paid"
    if entry.credit != "debt":
        return None
    return "pays" if entry.source else "debt"
