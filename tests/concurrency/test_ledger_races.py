"""Many at once on one person's money. Asserted are sums, not replies; every test ends with a
reconciliation."""

import random
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import (
    Conn,
    Ledger,
    admin_claims,
    opening,
    race,
    scoped,
    start_generation,
    states,
    user_claims,
)

pytestmark = [pytest.mark.race, pytest.mark.timeout(180)]

Work = Callable[[Conn], Any]


@pytest.fixture
def ledger(database: TestDatabase) -> Ledger:
    return Ledger(database)


def call(query: str, *params: object) -> Work:
    def work(conn: Conn) -> Any:
        row = conn.execute(query.encode(), params).fetchone()
        return next(iter(row.values())) if row else None

    return work


def as_user(user_id: uuid.UUID, query: str, *params: object) -> Work:
    def work(conn: Conn) -> Any:
        with scoped(conn, "jewelshot_user", user_claims(user_id)):
            return call(query, *params)(conn)

    return work


def shuffled(works: list[Work], seed: int) -> list[Work]:
    random.Random(seed).shuffle(works)
    return works


def test_fifty_starts_on_ten_credits(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user(10)
    photo = ledger.upload(user)
    works: list[Work] = [lambda conn: start_generation(conn, user, photo)] * 50
    results = race(database.api_url, works)
    assert Counter(states(results)) == {"ok": 10, "JS402": 40}
    assert ledger.balance(user) == (0, 10, 0)
    assert ledger.value("select count(*) from app.generations") == 10
    assert ledger.value("select count(*) from app.outbox") == 10
    refusals = [result for result in results if not isinstance(result, uuid.UUID)]
    assert all('"required": 1' in error.diag.message_detail for error in refusals)


def test_one_start_twenty_times(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user(10)
    photo, generation = ledger.upload(user), uuid.uuid4()
    works: list[Work] = [
        lambda conn: start_generation(conn, user, photo, generation_id=generation)
    ] * 20
    assert set(states(race(database.api_url, works))) == {"ok"}
    assert ledger.balance(user) == (9, 1, 0)


def test_one_grant_twenty_times(ledger: Ledger) -> None:
    user = ledger.user()
    grant = call("select app.grant_credits(%s, 7, 'purchase', 'test:k')", user)
    lots = race(ledger.url, [grant] * 20)
    assert len(set(lots)) == 1
    assert ledger.balance(user) == (7, 0, 0)


def test_one_grant_key_with_two_amounts(ledger: Ledger) -> None:
    user = ledger.user()
    works = [
        call("select app.grant_credits(%s, %s, 'purchase', 'test:k')", user, 7 + number % 2)
        for number in range(20)
    ]
    assert Counter(states(race(ledger.url, works))) == {"ok": 10, "JS500": 10}
    assert ledger.balance(user)[0] in {7, 8}


def test_one_reservation_ends_once(ledger: Ledger) -> None:
    for seed in range(5):
        user = ledger.user(10)
        subject = ledger.reserve(user, 4)
        works = [
            *[call("select app.confirm(%s, 'late_image', %s)", user, subject)] * 10,
            *[call("select app.refund(%s, 'late_image', %s)", user, subject)] * 10,
        ]
        results = race(ledger.url, shuffled(works, seed))
        assert [result for result in results if result is True] == [True]
        assert Counter(states(results)) == {"ok": 10, "JS409": 10}
        assert ledger.balance(user) in {(6, 0, 0), (10, 0, 0)}


def test_one_reversal_twenty_times(ledger: Ledger) -> None:
    user = ledger.user(4, reference="pi_1")
    reverse = call("select app.reverse_credits(%s, 6, 're_1', 'pi_1')", user)
    assert set(race(ledger.url, [reverse] * 20)) == {2}
    assert ledger.balance(user) == (0, 0, 2)


def test_one_restore_twenty_times(ledger: Ledger) -> None:
    user = ledger.user(4, reference="pi_1", source="gift")
    ledger.reverse(user, 6, "re_1", "pi_1")
    restore = call("select app.restore_credits(%s, 6, 'back', 'pi_1')", user)
    assert set(race(ledger.url, [restore] * 20)) == {0}
    assert ledger.balance(user) == (4, 0, 0)


def test_one_reservation_is_charged_its_share_once(ledger: Ledger) -> None:
    for seed in range(5):
        user = ledger.user(10)
        subject = ledger.reserve(user, 6)
        works = [
            *[call("select app.refund(%s, 'late_image', %s, 4)", user, subject)] * 8,
            *[call("select app.refund(%s, 'late_image', %s)", user, subject)] * 8,
            *[call("select app.confirm(%s, 'late_image', %s)", user, subject)] * 4,
        ]
        results = race(ledger.url, shuffled(works, seed))
        assert [result for result in results if result is True] == [True]
        assert set(states(results)) == {"ok", "JS409"}
        assert ledger.balance(user) in {(6, 0, 0), (10, 0, 0), (4, 0, 0)}


def test_a_restore_against_what_pays_the_debt(ledger: Ledger) -> None:
    """Whatever comes first: nothing is owed, nothing is lost, and each lot has its own."""
    for seed in range(5):
        paid = f"pi_{seed}"
        user = ledger.user(10, reference=paid)
        held = ledger.reserve(user, 3)
        ledger.confirm(user, ledger.reserve(user, 7))
        ledger.reverse(user, 10, f"re_{seed}", paid)
        assert ledger.balance(user) == (0, 3, 10)
        works = [
            *[call("select app.restore_credits(%s, 10, %s, %s)", user, f"back_{seed}", paid)] * 3,
            *[call("select app.refund(%s, 'late_image', %s, 1)", user, held)] * 3,
            call("select app.grant_credits(%s, 6, 'promo', %s)", user, f"test:{user}:promo"),
            call("select app.grant_credits(%s, 5, 'gift', %s)", user, f"test:{user}:gift"),
        ]
        assert set(states(race(ledger.url, shuffled(works, seed)))) == {"ok"}
        assert ledger.balance(user) == (13, 0, 0)
        lots = ledger.database.rows(
            "select source, remaining from app.credit_lots where user_id = %s order by source",
            (user,),
        )
        assert [(lot["source"], lot["remaining"]) for lot in lots] == [
            *(("gift", 5), ("promo", 6)),
            ("purchase", 2),
        ]


def test_one_adjustment_twenty_times(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user()
    claims = admin_claims(database)

    def adjust(conn: Conn) -> None:
        with scoped(conn, "jewelshot_admin", claims):
            conn.execute("select app.adjust_credits(%s, 5, 'goodwill', 'k')", (user,))

    assert set(states(race(database.api_url, [adjust] * 20))) == {"ok"}
    assert ledger.balance(user) == (5, 0, 0)
    assert ledger.value("select count(*) from app.audit_log") == 1


def test_everything_at_once(ledger: Ledger) -> None:
    """Grants, reservations, ends, reversals and expiry of three people; no deadlock, no loss."""
    people = [
        ledger.user(20, lives=lives, reference="pi") for lives in ("9 days", "1 day", "1 day")
    ]
    works: list[Work] = []
    for number, user in enumerate(people):
        ledger.grant(user, 30)
        held = [ledger.reserve(user, 3) for _ in range(4)]
        works += [call("select app.confirm(%s, 'late_image', %s)", user, held[0])] * 2
        works += [call("select app.refund(%s, 'late_image', %s)", user, held[1])] * 2
        works += [call("select app.confirm(%s, 'late_image', %s)", user, held[2])]
        works += [call("select app.refund(%s, 'late_image', %s)", user, held[2])]
        works += [
            call("select app.reserve(%s, 1, 'late_image', gen_random_uuid())", user)
            for _ in range(3)
        ]
        works += [call("select app.grant_credits(%s, 5, 'gift', %s)", user, f"test:{number}")] * 2
        works += [call("select app.reverse_credits(%s, 9, %s, 'pi')", user, f"r{number}")] * 2
    works += [call("select app.expire_credits(10)")] * 3
    ledger.clock.advance(days=2)
    results = race(ledger.url, shuffled(works, 1))
    assert set(states(results)) <= {"ok", "JS409"}
    for number, user in enumerate(people):
        available, reserved, debt = ledger.balance(user)
        posted = Counter[str]()
        for kind, _, _, amount in ledger.transfers(user):
            posted[kind] += amount
        assert (posted["grant"], posted["reverse"], reserved) == (55, 9, 3 + 3)
        assert posted["confirm"] in {3, 6}
        assert (posted["expire"] > 0) is (number > 0)
        spent = posted["confirm"] + posted["reverse"] + posted["expire"]
        assert available + reserved - debt == 55 - spent


def test_ends_against_cancels_and_expiry(ledger: Ledger, database: TestDatabase) -> None:
    """Each generation ends once, and its money with it, whoever comes first."""
    user = ledger.user(12, lives="1 minute")
    photo = ledger.upload(user)
    made = [ledger.start(user, photo) for _ in range(12)]
    database.rows(
        "update app.generations set state = 'collecting' where id = any (%s)", (made[:8],)
    )
    ledger.clock.advance(minutes=2)
    success = '{"result": {"storage_key": "out.png"}}'
    failure = '{"ending": "provider_failed"}'
    works: list[Work] = [call("select app.expire_credits(10)")] * 2
    works += [call("select count(*) from app.sweep_deadlines(50)")] * 2
    for number, generation in enumerate(made):
        outcome, facts = ("succeeded", success) if number < 4 else ("failed", failure)
        works += [
            call("select app.finish_generation(%s, null, %s, %s)", generation, outcome, facts),
            as_user(user, "select app.cancel_generation(%s)", generation),
        ]
    results = race(ledger.url, shuffled(works, 2))
    assert set(states(results)) <= {"ok", "JS409"}
    ended = Counter(row["state"] for row in database.rows("select state from app.generations"))
    assert sum(ended.values()) == 12
    assert ended["succeeded"] == 4
    assert ended["failed"] + ended["cancelled"] == 8
    assert ledger.balance(user)[1:] == (0, 0)
    assert ledger.balance(user)[0] == 8


def test_ends_against_repeated_webhooks_and_cancels(ledger: Ledger, database: TestDatabase) -> None:
    """The end of a call deletes its task while webhooks and a cancel want to make the same one."""
    user = ledger.user(40)
    photo = ledger.upload(user)
    ledger.value(
        "select app.sync_provider_keys(%s::jsonb, 40)",
        '[{"name": "FAL_AI_KEY_1", "fingerprint": "f", "account": "a"}]',
    )
    for _ in range(8):
        ledger.start(user, photo)
    works: list[Work] = []
    for _ in range(8):
        intent = ledger.value("select app.open_calls(array['f'], 1, 30)")
        call_id, token = intent["call_id"], intent["callback_token"]
        webhook = call("select app.receive_provider_webhook(%s, %s, 'r')", call_id, token)
        webhook_task = ledger.value(
            "select app.receive_provider_webhook(%s, %s, 'r')", call_id, token
        )
        lease = uuid.uuid4()
        database.rows(
            "update app.outbox set claimed = wanted, lease_token = %s,"
            " lease_until = app.now() + interval '1 minute'"
            " where id = %s",
            (lease, webhook_task),
        )
        ledger.value("select app.begin_collect(%s) ->> 'role'", call_id)
        facts = (
            f'{{"call_id": "{call_id}", "call": {{"state": "succeeded"}},'
            ' "result": {"storage_key": "out.png"}}'
        )
        works += [webhook] * 3
        works += [
            as_user(user, "select app.cancel_generation(%s)", intent["generation_id"]),
            call(
                "select app.finish_generation(%s, %s, 'succeeded', %s)",
                intent["generation_id"],
                lease,
                facts,
            ),
        ]
    results = race(ledger.url, shuffled(works, 3))
    assert set(states(results)) <= {"ok", "JS409"}
    assert ledger.balance(user) == (32, 0, 0)
    assert ledger.value("select count(*) from app.generations where state = 'succeeded'") == 8


GMAIL = [
    f"{'.'.join('adalove'[:cut])}{'adalove'[cut:]}+{cut}@G{'oogle' * (cut % 2)}mail.com"
    for cut in range(7)
]
PROTON = ["ada.love@proton.me", "ada-love@pm.me", "ada_love@protonmail.com", "AdaLove+x@proton.me"]


@pytest.mark.parametrize("spellings", [["ada@example.com"], GMAIL, PROTON], ids=len)
def test_sign_up_credits_come_once(
    ledger: Ledger, database: TestDatabase, spellings: list[str]
) -> None:
    """Calls of one account, and calls of several spellings of one person, at the same moment."""
    users = [ledger.verified(spelling) for spelling in spellings]
    works = [
        opening(ledger.caller_of(user, f"198.51.{number}.7"), user)
        for number, user in enumerate(users * (20 // len(users)))
    ]
    results = race(database.api_url, works)
    assert set(states(results)) == {"ok"}
    assert sum(result["granted"] for result in results) == 1
    assert sum(ledger.balance(user)[0] for user in users) == 10
    assert ledger.value("select count(*) from app.ledger_transfers") == 1


CAPS: dict[str, tuple[str, str, int, str]] = {
    "network": ("person{}@gmail.com", "203.0.113.{}", 20, "network_limit"),
    "neighbours": ("person{}@gmail.com", "203.0.{}.7", 20, "network_limit"),
    "IPv6": ("person{}@gmail.com", "2001:db8:{}::7", 20, "network_limit"),
    "own domain": ("person{}@shop.example", "203.{}.113.7", 3, "domain_limit"),
    "its parts": ("ada@p{}.shop.co.uk", "203.{}.113.7", 3, "domain_limit"),
    "aliases": ("person{}@simplelogin.com", "203.{}.113.7", 3, "domain_limit"),
    "the day": ("person{}@gmail.com", "203.{}.113.7", 25, "day_limit"),
}


@pytest.mark.parametrize("cap", CAPS)
def test_free_credits_have_caps(ledger: Ledger, database: TestDatabase, cap: str) -> None:
    """Thirty people at the same moment: as many get credits as may, and everybody an account."""
    address, client_ip, granted, reason = CAPS[cap]
    database.rows("update app.signup_terms set grants_per_day = 25")
    users = [ledger.verified(address.format(number)) for number in range(30)]
    works = [
        opening(ledger.caller_of(user, client_ip.format(number)), user)
        for number, user in enumerate(users)
    ]
    results = race(database.api_url, works)
    assert Counter(result["reason"] for result in results) == {None: granted, reason: 30 - granted}
    assert sum(ledger.balance(user)[0] for user in users) == granted * 10
