"""Many people on one code, and one person on it many times. Asserted are sums, not replies."""

import random
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import Conn, Ledger, admin_claims, race, scoped, states, user_claims

pytestmark = [pytest.mark.race, pytest.mark.timeout(120)]

Work = Callable[[Conn], Any]


@pytest.fixture
def ledger(database: TestDatabase) -> Ledger:
    return Ledger(database)


def redeeming(user_id: uuid.UUID, digest: bytes) -> Work:
    def work(conn: Conn) -> Any:
        with scoped(conn, "jewelshot_user", user_claims(user_id)):
            row = conn.execute("select app.redeem_code(%s) as answer", (digest,)).fetchone()
        assert row is not None
        return row["answer"]

    return work


def disabling(database: TestDatabase, code_id: uuid.UUID) -> Work:
    claims = admin_claims(database)

    def work(conn: Conn) -> None:
        with scoped(conn, "jewelshot_admin", claims):
            conn.execute("select app.disable_codes(%s, null)", (code_id,))

    return work


def uses(ledger: Ledger, code_id: uuid.UUID) -> int:
    """As counted on the code, which is how many redeemed it and how many lots it gave."""
    counted = int(ledger.value("select uses from app.codes where id = %s", code_id))
    redeemed = ledger.value("select count(*) from app.code_redemptions where code_id = %s", code_id)
    lots = ledger.value(
        "select count(*) from app.credit_lots where idempotency_key like %s", f"code:{code_id}:%"
    )
    assert counted == redeemed == lots
    return counted


def test_twenty_people_on_five_uses(ledger: Ledger, database: TestDatabase) -> None:
    code_id, digest = ledger.code(credits_=7, uses_max=5)
    people = [ledger.user() for _ in range(20)]
    results = race(database.api_url, [redeeming(person, digest) for person in people])
    assert Counter(states(results)) == {"ok": 5, "JS442": 15}
    assert sorted(ledger.balance(person) for person in people) == (
        [(0, 0, 0)] * 15 + [(7, 0, 0)] * 5
    )
    assert uses(ledger, code_id) == 5


def test_one_person_twenty_times(ledger: Ledger, database: TestDatabase) -> None:
    code_id, digest = ledger.code(credits_=7, uses_max=20)
    person = ledger.user()
    results = race(database.api_url, [redeeming(person, digest)] * 20)
    assert len({str(result) for result in results}) == 1
    assert set(states(results)) == {"ok"}
    assert ledger.balance(person) == (7, 0, 0)
    assert uses(ledger, code_id) == 1


def test_redeemed_while_it_is_withdrawn_and_money_moves(
    ledger: Ledger, database: TestDatabase
) -> None:
    """Two codes crosswise, spending and an admin at once: no deadlock, and nothing in between."""
    first, one = ledger.code(credits_=7, uses_max=4)
    second, two = ledger.code(credits_=7, uses_max=20)
    people = [ledger.user(3) for _ in range(6)]
    works: list[Work] = [disabling(database, second), disabling(database, first)]
    for person in people:
        works += [redeeming(person, one), redeeming(person, two), redeeming(person, one)]
    random.Random(7).shuffle(works)
    results = race(database.api_url, works)
    assert set(states(results)) <= {"ok", "JS440", "JS442"}
    given = uses(ledger, first) + uses(ledger, second)
    assert uses(ledger, first) <= 4
    assert sum(ledger.balance(person)[0] for person in people) == 6 * 3 + given * 7


def test_a_crossing_is_told_once(ledger: Ledger, database: TestDatabase) -> None:
    """Ten images delivered at once, from ten credits to none."""
    person = ledger.user(10)
    subjects = [ledger.reserve(person, 1) for _ in range(10)]

    def confirming(subject: uuid.UUID) -> Work:
        def work(conn: Conn) -> None:
            conn.execute("select app.confirm(%s, 'late_image', %s)", (person, subject))

        return work

    results = race(ledger.url, [confirming(subject) for subject in subjects])
    assert set(states(results)) == {"ok"}
    emitted = database.rows("select type from app.events order by created_at, id")
    assert [row["type"] for row in emitted] == ["credits.ran_low", "credits.ran_out"]
