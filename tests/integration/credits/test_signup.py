"""Free credits: after verification, once a person, so many a network and day."""

import pytest

from core.people.keys import plain_key
from scripts import person_keys
from tests.harness.database import TestDatabase
from tests.harness.ledger import KEYS, Ledger, connect, refused, scoped, user_claims

OFFICE = "203.0.113.7"


def test_credits_come_with_the_verification(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.verified("ada@example.com", is_confirmed=False)
    assert ledger.open_account(user) == {
        "opened": False,
        "granted": False,
        "credits": 0,
        "reason": "email_not_verified",
    }
    assert database.rows("select * from app.users") == []
    database.rows("update auth.users set email_confirmed_at = now()")
    assert ledger.open_account(user) == {
        "opened": True,
        "granted": True,
        "credits": 10,
        "reason": None,
    }
    again = ledger.open_account(user)
    assert (again["granted"], again["reason"]) == (False, "already_granted")
    assert ledger.balance(user) == (10, 0, 0)
    lives = database.row("select expires_at - app.now() as lives from app.credit_lots")["lives"]
    assert 89 < lives.total_seconds() / 86_400 <= 90


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("ada@example.com", "ADA@Example.COM", True),
        ("ada@example.com", "ada+shop@example.com", True),
        ("ada.love@gmail.com", "adalove@gmail.com", True),
        ("a.d.a.love+x@gmail.com", "ADALOVE@GoogleMail.com", True),
        ("ada.love@example.com", "adalove@example.com", False),  # dots count elsewhere
        ("ada@example.com", "ada@example.org", False),
    ],
)
def test_one_person_however_spelled(
    ledger: Ledger, first: str, second: str, *, is_same: bool
) -> None:
    assert ledger.open_account(ledger.verified(first))["granted"]
    other = ledger.verified(second)
    opening = ledger.open_account(other, "198.51.100.7")
    assert opening["opened"]
    assert opening["granted"] is not is_same
    assert opening["reason"] == ("person_had_credits" if is_same else None)
    assert ledger.balance(other) == ((0, 0, 0) if is_same else (10, 0, 0))


def test_a_deleted_account_does_not_come_back_for_more(
    ledger: Ledger, database: TestDatabase
) -> None:
    first = ledger.verified("ada@example.com")
    ledger.open_account(first)
    database.rows("delete from auth.users where id = %s", (first,))
    second = ledger.verified("ada@example.com")
    assert ledger.open_account(second)["reason"] == "person_had_credits"
    assert ledger.balance(first) == (10, 0, 0)  # its history is kept


def test_a_deleted_login_opens_nothing(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.verified("ada@example.com")
    database.rows("update auth.users set deleted_at = now()")
    with refused("JS401"):
        ledger.open_account(user)
    assert database.rows("select from app.users") == []


def test_a_network_has_its_share_each_day(ledger: Ledger, database: TestDatabase) -> None:
    database.rows("update app.signup_terms set grants_per_network_per_day = 2")
    people = [ledger.verified(f"person{number}@gmail.com") for number in range(4)]
    reasons = [ledger.open_account(user, OFFICE)["reason"] for user in people[:3]]
    assert reasons == [None, None, "network_limit"]
    assert ledger.open_account(people[3], "198.51.100.7")["granted"]
    database.clock.advance(hours=25)
    assert ledger.open_account(people[2], OFFICE)["granted"]
    assert [ledger.balance(user)[0] for user in people] == [10] * 4


def test_nobody_without_identity_opens_an_account(ledger: Ledger, database: TestDatabase) -> None:
    with connect(database.api_url) as conn:
        with refused("JS401"), scoped(conn, "jewelshot_user", {}):
            conn.execute("select app.open_account()")
        with refused("42501"), scoped(conn, "jewelshot_api", {}):
            conn.execute("select app.open_account()")
        with refused("42501"), scoped(conn, "jewelshot_user", user_claims(ledger.user())):
            conn.execute("select app.verified_email(gen_random_uuid())")


def test_who_was_here_before_the_pepper_is_recognised(
    ledger: Ledger, database: TestDatabase
) -> None:
    """By the key as it was written then, and by what the command makes of it."""
    ada, bob = ledger.verified("ada@example.com"), ledger.verified("bob@example.com")
    for user, address in ((ada, "ada@example.com"), (bob, "bob@example.com")):
        ledger.open_account(user)
        database.rows(
            "update app.signup_grants set person_key = %s where user_id = %s",
            (plain_key(address), user),
        )
    again = ledger.verified("ada+again@example.com")
    assert ledger.open_account(again)["reason"] == "person_had_credits"
    assert person_keys.wrap(database.migration_url, KEYS) == 2
    assert person_keys.wrap(database.migration_url, KEYS) == 0
    keys = [row["person_key"] for row in database.rows("select person_key from app.signup_grants")]
    assert all(key.startswith("wrapped:") for key in keys)
    for spelling in ("ada+third@example.com", "BOB@example.com"):
        assert ledger.open_account(ledger.verified(spelling))["reason"] == "person_had_credits"


def test_no_address_and_no_network_stands_in_the_database(
    ledger: Ledger, database: TestDatabase
) -> None:
    ledger.open_account(ledger.verified("adalovelace@shop.example"))
    ledger.open_account(ledger.verified("adalovelace+2@shop.example"))
    ours = {name for name in database.tables_with("adalovelace") if name.startswith("app.")}
    assert ours | {n for n in database.tables_with("203.0.113") if n.startswith("app.")} == set()
    assert {n for n in database.tables_with("shop.example") if n.startswith("app.")} == set()
