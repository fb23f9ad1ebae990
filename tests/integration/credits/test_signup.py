"""Free credits: after verification, once a person, so many a network and day."""

import uuid
from typing import Any

import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, connect, refused, scoped, user_claims


def open_account(ledger: Ledger, user_id: uuid.UUID, network: str = "home") -> dict[str, Any]:
    with (
        connect(ledger.database.api_url) as conn,
        scoped(conn, "jewelshot_user", user_claims(user_id)),
    ):
        row = conn.execute("select app.open_account(%s) as opening", (network,)).fetchone()
    assert row is not None
    opening: dict[str, Any] = row["opening"]
    return opening


def test_credits_come_with_the_verification(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.verified("ada@example.com", is_confirmed=False)
    assert open_account(ledger, user) == {
        "opened": False,
        "granted": False,
        "credits": 0,
        "reason": "email_not_verified",
    }
    assert database.rows("select * from app.users") == []
    database.rows("update auth.users set email_confirmed_at = now()")
    assert open_account(ledger, user) == {
        "opened": True,
        "granted": True,
        "credits": 10,
        "reason": None,
    }
    again = open_account(ledger, user)
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
    assert open_account(ledger, ledger.verified(first))["granted"]
    other = ledger.verified(second)
    opening = open_account(ledger, other, "elsewhere")
    assert opening["opened"]
    assert opening["granted"] is not is_same
    assert opening["reason"] == ("person_had_credits" if is_same else None)
    assert ledger.balance(other) == ((0, 0, 0) if is_same else (10, 0, 0))


def test_a_deleted_account_does_not_come_back_for_more(
    ledger: Ledger, database: TestDatabase
) -> None:
    first = ledger.verified("ada@example.com")
    open_account(ledger, first)
    database.rows("delete from auth.users where id = %s", (first,))
    second = ledger.verified("ada@example.com")
    assert open_account(ledger, second)["reason"] == "person_had_credits"
    assert ledger.balance(first) == (10, 0, 0)  # its history is kept


def test_a_deleted_login_opens_nothing(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.verified("ada@example.com")
    database.rows("update auth.users set deleted_at = now()")
    with refused("JS401"):
        open_account(ledger, user)
    assert database.rows("select from app.users") == []


def test_a_network_has_its_share_each_day(ledger: Ledger, database: TestDatabase) -> None:
    database.rows("update app.signup_terms set grants_per_network_per_day = 2")
    people = [ledger.verified(f"person{number}@example.com") for number in range(4)]
    reasons = [open_account(ledger, user, "office")["reason"] for user in people[:3]]
    assert reasons == [None, None, "network_limit"]
    assert open_account(ledger, people[3], "home")["granted"]
    database.clock.advance(hours=25)
    assert open_account(ledger, people[2], "office")["granted"]
    assert [ledger.balance(user)[0] for user in people] == [10] * 4


def test_nobody_without_identity_opens_an_account(ledger: Ledger, database: TestDatabase) -> None:
    with connect(database.api_url) as conn:
        with refused("JS401"), scoped(conn, "jewelshot_user", {}):
            conn.execute("select app.open_account('home')")
        with refused("42501"), scoped(conn, "jewelshot_api", {}):
            conn.execute("select app.open_account('home')")
        with refused("42501"), scoped(conn, "jewelshot_user", user_claims(ledger.user())):
            conn.execute("select app.verified_email(gen_random_uuid())")
