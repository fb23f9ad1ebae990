"""Low balance: one event a crossing, none for credits that only went to and fro."""

import uuid

import httpx

from tests.harness.codes import CodesHarness
from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, connect, refused


def events(ledger: Ledger, user_id: uuid.UUID) -> list[str]:
    """Which marks were crossed, oldest first."""
    rows = ledger.database.rows(
        "select type from app.events where user_id = %s and type in"
        " ('credits.ran_low', 'credits.ran_out') order by created_at, id",
        (user_id,),
    )
    words = {"credits.ran_low": "low", "credits.ran_out": "empty"}
    return [words[row["type"]] for row in rows]


def spend(ledger: Ledger, user_id: uuid.UUID, amount: int = 1) -> None:
    ledger.confirm(user_id, ledger.reserve(user_id, amount))


def test_each_mark_is_crossed_once(ledger: Ledger) -> None:
    user = ledger.user(7)
    seen = []
    for _ in range(7):
        spend(ledger, user)
        seen.append(events(ledger, user))
    assert seen == [[], ["low"], ["low"], ["low"], ["low"], ["low"], ["low", "empty"]]


def test_straight_to_nothing_is_one_event(ledger: Ledger) -> None:
    user = ledger.user(10)
    spend(ledger, user, 10)
    assert events(ledger, user) == ["empty"]


def test_setting_aside_and_giving_back_say_nothing(ledger: Ledger) -> None:
    user = ledger.user(6)
    for _ in range(3):
        held = [ledger.reserve(user, 2) for _ in range(3)]
        assert ledger.balance(user) == (0, 6, 0)
        for subject in held:
            ledger.refund(user, subject)
    assert events(ledger, user) == []
    held = [ledger.reserve(user, 2) for _ in range(3)]
    ledger.confirm(user, held[0])
    ledger.refund(user, held[1])
    ledger.refund(user, held[2])
    assert events(ledger, user) == ["low"]
    assert ledger.value("select payload from app.events") == {
        "available": 0, "reserved": 4, "low_credits": 5,
    }  # fmt: skip


def test_a_generation_tells_when_it_is_delivered(ledger: Ledger) -> None:
    user = ledger.user(1)
    photo = ledger.upload(user)
    ledger.finish(ledger.start(user, photo), "failed")
    delivered = ledger.start(user, photo)
    assert events(ledger, user) == []
    ledger.finish(delivered, "succeeded")
    assert events(ledger, user) == ["empty"]


def test_credits_that_come_in_set_the_marks_again(ledger: Ledger) -> None:
    user = ledger.user(6)
    spend(ledger, user, 6)
    ledger.grant(user, 3, source="gift")  # above nothing, not above the low mark
    spend(ledger, user)
    assert events(ledger, user) == ["empty"]
    spend(ledger, user, 2)
    assert events(ledger, user) == ["empty", "empty"]
    ledger.grant(user, 50)
    spend(ledger, user, 45)
    assert events(ledger, user) == ["empty", "empty", "low"]


def test_other_ways_to_lose_credits_count_too(ledger: Ledger) -> None:
    expiring, reversed_, corrected = (
        ledger.user(10, lives="1 day"), ledger.user(10), ledger.user(10),
    )  # fmt: skip
    ledger.clock.advance(days=2)
    ledger.expire()
    ledger.reverse(reversed_, 12, "re_1")
    ledger.adjust(corrected, -5, "k")
    assert events(ledger, expiring) == ["empty"]
    assert events(ledger, reversed_) == ["empty"]
    assert events(ledger, corrected) == ["low"]
    ledger.grant(reversed_, 2)  # all of it pays the debt
    assert events(ledger, reversed_) == ["empty"]


def test_a_refused_transaction_leaves_no_event(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user(10)
    subject = ledger.reserve(user, 10)
    with connect(database.superuser_url) as conn, conn.transaction(force_rollback=True):
        conn.execute("select app.confirm(%s, 'late_image', %s)", (user, subject))
    assert events(ledger, user) == []
    with refused("JS409"):
        ledger.refund(user, subject)
        ledger.confirm(user, subject)
    assert events(ledger, user) == []


def test_the_low_mark_is_data(ledger: Ledger, database: TestDatabase) -> None:
    database.rows("update app.balance_terms set low_credits = 20")
    user = ledger.user(30)
    spend(ledger, user, 10)
    assert events(ledger, user) == ["low"]


async def test_people_read_their_own(codes: CodesHarness, ledger: Ledger) -> None:
    user, other = ledger.user(6), ledger.user(6)
    spend(ledger, user)
    spend(ledger, user, 5)
    spend(ledger, other, 6)
    first = await codes.events(user, limit=1)
    (empty,) = first["items"]
    assert (empty["type"], empty["text"]) == ("credits.ran_out", "You have no credits left.")
    rest = await codes.events(user, limit=1, cursor=first["next_cursor"])
    (low,) = rest["items"]
    assert low["type"] == "credits.ran_low"
    assert low["text"] == "Your credits are running low: 5 left."
    assert low["payload"] == {"available": 5, "reserved": 0, "low_credits": 5}
    assert rest["next_cursor"] is None
    assert len((await codes.events(other))["items"]) == 1


async def test_a_wrong_question_says_so(
    client: httpx.AsyncClient, codes: CodesHarness, ledger: Ledger
) -> None:
    headers = codes.of(ledger.user())
    for query, status in (("cursor=nonsense", 422), ("limit=0", 400)):
        answer = await client.get(f"/v1/me/events?{query}", headers=headers)
        assert answer.status_code == status, answer.text
    assert (await client.get("/v1/me/events")).status_code == 401
