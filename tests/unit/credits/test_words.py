"""Money in words."""

import datetime as dt
from typing import Any

import msgspec
import pytest

from core.credits.types import EntryFacts
from core.credits.words import entry_in_words

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def line(kind: str, debit: str, credit: str, **more: Any) -> EntryFacts:
    row = {
        "kind": kind,
        "debit": debit,
        "credit": credit,
        "amount": 2,
        "source": "purchase",
        "lot_expires_at": None,
        **more,
    }
    return msgspec.convert(row, EntryFacts)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (line("grant", "sales", "available"), "2 credits came in: bought credits."),
        (
            line("grant", "signup", "available", source="signup", lot_expires_at=NOON),
            "2 credits came in: sign-up credits, to be spent by 20 November 2026.",
        ),
        (line("grant", "sales", "debt"), "2 credits of your new bought credits paid your debt."),
        (
            line("reserve", "available", "reserved", amount=1),
            "1 credit set aside, from your bought credits.",
        ),
        (
            line("confirm", "reserved", "usage", source=None),
            "2 credits spent, because the image was delivered.",
        ),
        (
            line("refund", "reserved", "available", lot_expires_at=NOON, source="gift"),
            "2 credits came back to your gift credits, which expire on 20 November 2026.",
        ),
        (
            line(
                "refund",
                "reserved",
                "available",
                lot_expires_at=NOON,
                extended_from=NOON - dt.timedelta(days=8),
            ),
            (
                "2 credits came back to your bought credits. They had expired meanwhile (12"
                " November 2026), so they now live until 20 November 2026."
            ),
        ),
        (line("expire", "available", "expired"), "2 credits expired: bought credits."),
        (
            line("reverse", "available", "sales"),
            "2 credits taken back, because a payment was returned.",
        ),
        (
            line("reverse", "debt", "sales", source=None),
            "2 credits of a returned payment were spent already and are now your debt.",
        ),
        (
            line("restore", "sales", "available"),
            "2 credits came back to your bought credits, because a payment was kept after all.",
        ),
        (
            line("restore", "sales", "available", lot_expires_at=NOON, source="promo"),
            (
                "2 credits came back to your promotional credits, which expire on 20 November"
                " 2026, because a payment was kept after all."
            ),
        ),
        (
            line("restore", "sales", "debt", source=None),
            "2 credits of your debt are not owed, because a payment was kept after all.",
        ),
        (
            line("restore", "sales", "debt", source="gift"),
            "2 credits of your gift credits, taken back before, paid your debt.",
        ),
        (
            line("restore", "debt", "available", source="gift"),
            (
                "2 credits came back to your gift credits: they had paid a debt that is not owed"
                " after all."
            ),
        ),
        (line("adjust", "available", "adjustments"), "2 credits taken back by a correction."),
        (
            line("adjust", "debt", "adjustments", source=None),
            "2 credits became your debt by a correction.",
        ),
    ],
)
def test_each_line_in_words(row: EntryFacts, text: str) -> None:
    assert entry_in_words(row) == text
