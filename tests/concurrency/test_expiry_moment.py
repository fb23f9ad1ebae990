"""Transactions that began before a lot expired and come to it after another has expired it."""

import uuid

import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, connect

pytestmark = [pytest.mark.race, pytest.mark.timeout(180)]


@pytest.mark.parametrize("kind", ["refund", "restore"])
def test_credits_that_come_back_at_the_moment_of_expiry_expire_once_more(
    database: TestDatabase, kind: str
) -> None:
    """By its own time, that of its beginning, the lot is good; the ledger says that it expired."""
    ledger = Ledger(database)
    user, subject = ledger.user(), uuid.uuid4()
    with connect(ledger.url) as conn, conn.transaction():
        conn.execute("select app.now()")
        ledger.grant(user, 10, source="promo", lives="3 seconds")
        if kind == "refund":
            ledger.reserve(user, 4, subject)
        else:
            ledger.reverse(user, 4, "taken", str(subject))
        database.row("select pg_sleep_until(expires_at) from app.credit_lots")
        assert ledger.expire() == 6
        conn.execute(
            {
                "refund": "select app.refund(%s, 'late_image', %s::text::uuid)",
                "restore": "select app.restore_credits(%s, 4, 'back', %s::text)",
            }[kind].encode(),
            (user, subject),
        )
    assert ledger.balance(user) == (4, 0, 0)
    assert ledger.expire() == 0
    database.clock.advance(days=8)
    assert ledger.expire() == 4
    assert ledger.balance(user) == (0, 0, 0)
