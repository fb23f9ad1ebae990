"""Each money function: success, replay, other terms, insufficient, missing. Races are in
tests/concurrency. Every test ends with a reconciliation."""

import uuid

import pytest

from core import proofs
from core.nouns import NOUNS
from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, admin_claims, connect, refused, scoped


def nobody() -> uuid.UUID:
    return uuid.uuid4()


# --- grant -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "debit"),
    [
        ("purchase", "sales"),
        ("signup", "signup"),
        ("promo", "promo"),
        ("gift", "gift"),
        ("referral", "referral"),
        ("adjustment", "adjustments"),
    ],
)
def test_a_grant_is_a_lot_and_a_line(ledger: Ledger, source: str, debit: str) -> None:
    user = ledger.user()
    ledger.grant(user, 7, source=source)
    assert ledger.balance(user) == (7, 0, 0)
    assert ledger.transfers(user) == [("grant", debit, "available", 7)]


def test_a_grant_replayed_is_the_same_lot(ledger: Ledger) -> None:
    user = ledger.user()
    first = ledger.grant(user, 7, key="k")
    assert ledger.grant(user, 7, key="k") == first
    assert ledger.balance(user) == (7, 0, 0)


def test_a_grant_key_with_other_terms_is_refused(ledger: Ledger) -> None:
    user, other = ledger.user(), ledger.user()
    ledger.grant(user, 7, key="k")
    with refused("JS500") as refusal:
        ledger.grant(user, 8, key="k")
    assert refusal.detail == {"idempotency_key": "test:k"}
    with refused("JS500"):
        ledger.grant(user, 7, key="k", source="gift")
    with refused("JS500"):
        ledger.grant(other, 7, key="k")
    assert ledger.balance(user) == (7, 0, 0)
    assert ledger.balance(other) == (0, 0, 0)


@pytest.mark.parametrize("amount", [0, -1])
def test_a_grant_is_positive(ledger: Ledger, amount: int) -> None:
    user = ledger.user()
    with refused("JS422") as refusal:
        ledger.grant(user, amount)
    assert refusal.detail["field"] == "amount"


def test_nobody_is_granted_nothing(ledger: Ledger) -> None:
    with refused("JS404") as refusal:
        ledger.grant(nobody(), 1)
    assert refusal.detail == {"kind": "credit_account"}


def test_a_grant_pays_debt_first(ledger: Ledger) -> None:
    user = ledger.user()
    ledger.reverse(user, 5, "r")
    assert ledger.balance(user) == (0, 0, 5)
    ledger.grant(user, 3)
    assert ledger.balance(user) == (0, 0, 2)
    lot = ledger.grant(user, 10)
    assert ledger.balance(user) == (8, 0, 0)
    assert ledger.remaining(lot) == 8
    assert ledger.transfers(user)[1:] == [
        ("grant", "sales", "debt", 3),
        ("grant", "sales", "debt", 2),
        ("grant", "sales", "available", 8),
    ]


# --- reserve, confirm, refund ----------------------------------------------------------------


def test_reserve_then_confirm(ledger: Ledger) -> None:
    user = ledger.user(10)
    subject = ledger.reserve(user, 4)
    assert ledger.balance(user) == (6, 4, 0)
    assert ledger.confirm(user, subject) is True
    assert ledger.balance(user) == (6, 0, 0)
    assert ledger.transfers(user)[1:] == [
        ("reserve", "available", "reserved", 4),
        ("confirm", "reserved", "usage", 4),
    ]


def test_reserve_then_refund(ledger: Ledger) -> None:
    user = ledger.user(10)
    subject = ledger.reserve(user, 4)
    assert ledger.refund(user, subject) is True
    assert ledger.balance(user) == (10, 0, 0)


def test_replays_find_themselves_done(ledger: Ledger) -> None:
    user = ledger.user(10)
    subject = ledger.reserve(user, 4)
    ledger.reserve(user, 4, subject)
    assert ledger.balance(user) == (6, 4, 0)
    assert [ledger.confirm(user, subject), ledger.confirm(user, subject)] == [True, False]
    other = ledger.reserve(user, 2)
    assert [ledger.refund(user, other), ledger.refund(user, other)] == [True, False]
    assert ledger.balance(user) == (6, 0, 0)


def test_a_reservation_ends_once(ledger: Ledger) -> None:
    user = ledger.user(10)
    spent, returned = ledger.reserve(user, 1), ledger.reserve(user, 2)
    ledger.confirm(user, spent)
    ledger.refund(user, returned)
    with refused("JS409") as refusal:
        ledger.refund(user, spent)
    assert refusal.detail == {"reason": "reservation_confirmed"}
    with refused("JS409") as refusal:
        ledger.confirm(user, returned)
    assert refusal.detail == {"reason": "reservation_refunded"}
    assert ledger.balance(user) == (9, 0, 0)


def test_a_reservation_replayed_with_other_terms_is_refused(ledger: Ledger) -> None:
    user, other = ledger.user(10), ledger.user(10)
    subject = ledger.reserve(user, 4)
    with refused("JS500"):
        ledger.reserve(user, 5, subject)
    with refused("JS500"):
        ledger.reserve(other, 4, subject)
    assert ledger.balance(user) == (6, 4, 0)
    assert ledger.balance(other) == (10, 0, 0)


def test_not_enough_is_said_in_figures(ledger: Ledger) -> None:
    user = ledger.user(3)
    with refused("JS402") as refusal:
        ledger.reserve(user, 4)
    assert refusal.detail == {"required": 4, "available": 3, "debt": 0}
    assert ledger.balance(user) == (3, 0, 0)


def test_debt_buys_nothing(ledger: Ledger) -> None:
    user = ledger.user()
    ledger.reverse(user, 2, "r")
    with refused("JS402") as refusal:
        ledger.reserve(user, 1)
    assert refusal.detail == {"required": 1, "available": 0, "debt": 2}


def test_what_does_not_exist(ledger: Ledger) -> None:
    user, other = ledger.user(5), ledger.user(5)
    subject = ledger.reserve(user, 1)
    for move in (ledger.confirm, ledger.refund):
        with refused("JS404"):
            move(user, uuid.uuid4())
        with refused("JS404"):
            move(other, subject)  # somebody else's
        with refused("JS404"):
            move(nobody(), subject)
    with refused("JS404"):
        ledger.reserve(nobody(), 1)
    assert ledger.balance(user) == (4, 1, 0)


def test_a_refund_pays_debt_first_from_what_expires_soonest(ledger: Ledger) -> None:
    user = ledger.user()
    soon = ledger.grant(user, 3, lives="1 day")
    late = ledger.grant(user, 3, lives="30 days")
    subject = ledger.reserve(user, 6)
    ledger.reverse(user, 4, "r")
    assert ledger.balance(user) == (0, 6, 4)
    ledger.refund(user, subject)
    assert ledger.balance(user) == (2, 0, 0)
    assert (ledger.remaining(soon), ledger.remaining(late)) == (0, 2)


# --- lots: order and expiry ------------------------------------------------------------------


def test_spending_order(ledger: Ledger) -> None:
    """The soonest to expire, then free, then paid, whatever came first or has a reference."""
    user = ledger.user()
    paid = ledger.grant(user, 2, reference="pi_1")
    free = ledger.grant(user, 2, source="gift")
    dated = ledger.grant(user, 2, source="signup", lives="60 days")
    paid_soon = ledger.grant(user, 2, lives="30 days", reference="pi_2")
    expected = [paid_soon, paid_soon, dated, dated, free, free, paid, paid]
    for lot in expected:
        before = ledger.remaining(lot)
        ledger.reserve(user, 1)
        assert ledger.remaining(lot) == before - 1
    assert ledger.balance(user) == (0, 8, 0)


def test_one_reservation_over_several_lots(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user()
    for days in (3, 1, 2):
        ledger.grant(user, 2, lives=f"{days} days")
    subject = ledger.reserve(user, 5)
    parts = database.rows(
        "select link.amount from app.reservation_lots as link"
        " join app.reservations as reservation on reservation.id = link.reservation_id"
        " join app.credit_lots as lot on lot.id = link.lot_id"
        " where reservation.subject_id = %s order by lot.expires_at",
        (subject,),
    )
    assert [part["amount"] for part in parts] == [2, 2, 1]
    ledger.refund(user, subject)
    assert ledger.balance(user) == (6, 0, 0)


def test_expired_credits_cannot_be_spent(ledger: Ledger) -> None:
    user = ledger.user()
    ledger.grant(user, 5, lives="1 day")
    kept = ledger.grant(user, 2)
    ledger.clock.advance(days=2)
    with refused("JS402") as refusal:
        ledger.reserve(user, 3)
    assert refusal.detail["available"] == 2
    ledger.reserve(user, 2)
    assert ledger.remaining(kept) == 0
    assert ledger.balance(user) == (0, 2, 0)
    assert ("expire", "available", "expired", 5) in ledger.transfers(user)


def test_expiry_books_what_is_due_once(ledger: Ledger) -> None:
    users = [ledger.user() for _ in range(3)]
    for user, lives in zip(users, ("1 day", "1 day", "3 days"), strict=True):
        ledger.grant(user, 5, lives=lives)
        ledger.grant(user, 1)
    ledger.clock.advance(days=2)
    assert [ledger.expire(1), ledger.expire(10), ledger.expire(10)] == [5, 5, 0]
    assert [ledger.balance(user)[0] for user in users] == [1, 1, 6]


def test_reserved_credits_do_not_expire(ledger: Ledger) -> None:
    user = ledger.user()
    ledger.grant(user, 5, lives="1 day")
    subject = ledger.reserve(user, 3)
    ledger.clock.advance(days=2)
    assert ledger.expire() == 2
    assert ledger.balance(user) == (0, 3, 0)
    ledger.confirm(user, subject)
    assert ledger.balance(user) == (0, 0, 0)


def test_a_refund_to_an_expired_lot_lives_seven_days(
    ledger: Ledger, database: TestDatabase
) -> None:
    user = ledger.user()
    lot = ledger.grant(user, 5, lives="1 day")
    first, second = ledger.reserve(user, 2), ledger.reserve(user, 1)
    ledger.clock.advance(days=2)
    # Nobody has booked the expiry of the two that are left: they must not live on with it.
    ledger.refund(user, first)
    assert ledger.balance(user) == (2, 1, 0)
    row = database.row(
        "select expires_at - app.now() as lives, remaining from app.credit_lots where id = %s",
        (lot,),
    )
    assert row["remaining"] == 2
    assert 6.99 < row["lives"].total_seconds() / 86_400 <= 7
    ledger.clock.advance(days=3)
    ledger.refund(user, second)  # joins them, without another seven days
    ledger.clock.advance(days=5)
    assert ledger.expire() == 3
    assert ledger.balance(user) == (0, 0, 0)


# --- a share of a reservation ----------------------------------------------------------------


def _charge(ledger: Ledger, user: uuid.UUID, subject: uuid.UUID, share: int) -> bool:
    return bool(ledger.value("select app.refund(%s, 'late_image', %s, %s)", user, subject, share))


def test_a_share_is_spent_and_the_rest_comes_back(ledger: Ledger) -> None:
    """What would expire first is spent, so what is kept lives longest."""
    user = ledger.user()
    soon = ledger.grant(user, 3, source="promo", lives="1 day")
    late = ledger.grant(user, 2, source="gift", lives="9 days")
    bought = ledger.grant(user, 5)
    subject = ledger.reserve(user, 9)
    assert _charge(ledger, user, subject, 4)
    assert [ledger.remaining(lot) for lot in (soon, late, bought)] == [0, 1, 5]
    assert ledger.balance(user) == (6, 0, 0)
    row = ledger.database.row(
        "select state, confirmed_amount from app.reservations where subject_id = %s", (subject,)
    )
    assert (row["state"], row["confirmed_amount"]) == ("confirmed", 4)
    assert ledger.transfers(user)[-3:-2] == [("confirm", "reserved", "usage", 4)]


def test_a_share_is_charged_before_a_debt_is_paid(ledger: Ledger) -> None:
    user = ledger.user(10, reference="pi_1")
    subject = ledger.reserve(user, 8)
    ledger.reverse(user, 5, "re_1", "pi_1")
    assert ledger.balance(user) == (0, 8, 3)
    assert _charge(ledger, user, subject, 4)
    assert ledger.balance(user) == (1, 0, 0)


def test_a_share_is_charged_once(ledger: Ledger) -> None:
    user = ledger.user(10)
    subject = ledger.reserve(user, 6)
    assert _charge(ledger, user, subject, 4)
    assert not _charge(ledger, user, subject, 4)
    for other in (0, 3, 5):
        with refused("JS409") as refusal:
            _charge(ledger, user, subject, other)
        assert refusal.detail["reason"] == "reservation_confirmed"
    assert not ledger.confirm(user, subject), "it is spent, as far as it was to be"
    assert ledger.balance(user) == (6, 0, 0)


@pytest.mark.parametrize("share", [-1, 6, 7])
def test_a_share_is_less_than_the_whole(ledger: Ledger, share: int) -> None:
    user = ledger.user(10)
    subject = ledger.reserve(user, 6)
    with refused("JS500"):
        _charge(ledger, user, subject, share)
    assert ledger.balance(user) == (4, 6, 0)


# --- reverse ---------------------------------------------------------------------------------


def test_a_reversal_takes_its_own_lots_first(ledger: Ledger) -> None:
    user = ledger.user()
    other = ledger.grant(user, 5, source="signup", lives="1 day")
    bought = ledger.grant(user, 10, reference="pi_1")
    assert ledger.reverse(user, 10, "re_1", "pi_1") == 0
    assert (ledger.remaining(other), ledger.remaining(bought)) == (5, 0)
    assert ledger.transfers(user)[-1] == ("reverse", "available", "sales", 10)


def test_a_reversal_of_spent_credits_is_debt(ledger: Ledger) -> None:
    user = ledger.user(10, reference="pi_1")
    ledger.confirm(user, ledger.reserve(user, 8))
    assert ledger.reverse(user, 10, "re_1", "pi_1") == 8
    assert ledger.balance(user) == (0, 0, 8)


def test_a_reversal_leaves_reservations_alone(ledger: Ledger) -> None:
    user = ledger.user(10, reference="pi_1")
    subject = ledger.reserve(user, 8)
    ledger.reverse(user, 10, "re_1", "pi_1")
    assert ledger.balance(user) == (0, 8, 8)
    ledger.refund(user, subject)
    assert ledger.balance(user) == (0, 0, 0)


@pytest.mark.parametrize("spent", [0, 4, 10])
def test_a_reversal_replayed_does_nothing(ledger: Ledger, spent: int) -> None:
    user = ledger.user(4, source="gift")
    ledger.grant(user, 6, reference="pi_1")
    if spent:
        ledger.confirm(user, ledger.reserve(user, spent))
    debt = ledger.reverse(user, 6, "re_1", "pi_1")
    figures = ledger.balance(user)
    ledger.grant(user, 0 + 20)
    after = ledger.balance(user)
    assert ledger.reverse(user, 6, "re_1", "pi_1") == after[2]
    assert ledger.balance(user) == after
    assert figures[2] == debt
    with refused("JS500"):
        ledger.reverse(user, 5, "re_1", "pi_1")
    assert ledger.balance(user) == after


def test_a_reversal_of_nothing_is_refused(ledger: Ledger) -> None:
    user = ledger.user(5)
    with refused("JS422"):
        ledger.reverse(user, 0, "re_1")
    with refused("JS422"):
        ledger.reverse(user, -3, "re_1")
    with refused("JS404"):
        ledger.reverse(nobody(), 3, "re_1")
    assert ledger.balance(user) == (5, 0, 0)


def test_expired_credits_do_not_pay_for_a_reversal(ledger: Ledger) -> None:
    user = ledger.user(5, lives="1 day")
    ledger.clock.advance(days=2)
    assert ledger.reverse(user, 5, "re_1") == 5
    assert ledger.balance(user) == (0, 0, 5)


# --- adjust ----------------------------------------------------------------------------------


def test_an_adjustment_goes_both_ways(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user(2)
    assert ledger.adjust(user, 5, "a") == {"available": 7, "reserved": 0, "debt": 0}
    assert ledger.adjust(user, -10, "b") == {"available": 0, "reserved": 0, "debt": 3}
    assert ledger.adjust(user, 4, "c") == {"available": 1, "reserved": 0, "debt": 0}
    audit = database.rows(
        "select target, detail from app.audit_log join app.audit_details on audit_id = id"
        " order by id"
    )
    assert [row["detail"]["amount"] for row in audit] == [5, -10, 4]
    assert {row["target"] for row in audit} == {str(user)}


def test_an_adjustment_key_is_used_once(ledger: Ledger, database: TestDatabase) -> None:
    user, other = ledger.user(), ledger.user()
    ledger.adjust(user, 5, "k")
    assert ledger.adjust(user, 5, "k")["available"] == 5
    for amount, reason in ((6, "goodwill"), (-5, "goodwill"), (5, "another")):
        with refused("JS432"):
            ledger.adjust(user, amount, "k", reason)
    assert ledger.balance(user) == (5, 0, 0)
    ledger.adjust(other, -5, "k")  # a key counts for one person
    assert ledger.balance(other) == (0, 0, 5)
    assert database.row("select count(*) as n from app.audit_log")["n"] == 2


@pytest.mark.parametrize(
    ("amount", "reason", "field"), [(0, "why", "amount"), (1, " ", "reason"), (-1, "", "reason")]
)
def test_an_adjustment_has_amount_and_reason(
    ledger: Ledger, amount: int, reason: str, field: str
) -> None:
    user = ledger.user()
    with refused("JS422") as refusal:
        ledger.adjust(user, amount, "k", reason)
    assert refusal.detail["field"] == field


def test_only_admins_with_a_second_factor_adjust(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user()
    with refused("JS404"):
        ledger.adjust(nobody(), 1, "k")
    with connect(database.api_url) as conn:
        for claims in (admin_claims(database, aal="aal1"), {"sub": str(user), "aal": "aal2"}):
            with refused("JS403"), scoped(conn, "jewelshot_admin", claims):
                conn.execute("select app.adjust_credits(%s, 1, 'why', 'k')", (user,))
        with refused("42501"), scoped(conn, "jewelshot_user", admin_claims(database)):
            conn.execute("select app.adjust_credits(%s, 1, 'why', 'k')", (user,))
    assert ledger.balance(user) == (0, 0, 0)


# --- doors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["jewelshot_user", "jewelshot_api", "jewelshot_admin"])
def test_nobody_moves_money_by_hand(ledger: Ledger, database: TestDatabase, role: str) -> None:
    user = ledger.user(5)
    subject = ledger.reserve(user, 1)
    statements = [
        f"select app.reserve('{user}', 1, 'late_image', gen_random_uuid())",
        f"select app.confirm('{user}', 'late_image', '{subject}')",
        f"select app.refund('{user}', 'late_image', '{subject}')",
        f"select app.grant_credits('{user}', 5, 'gift', 'mine')",
        f"select app.reverse_credits('{user}', 5, 'mine', null)",
        f"select app.claw_back('{user}', 5, 'adjust', 'adjustments', 'k', null, 'me', null)",
        f"select app.move_balance('{user}', 5, 0, 0)",
        f"select app.expire_due_lots('{user}')",
        "select app.expire_credits(1)",
        *proofs.statements(NOUNS),
        f"update app.credit_accounts set available = 100 where user_id = '{user}'",
        f"update app.credit_lots set remaining = granted where user_id = '{user}'",
        f"update app.reservations set state = 'refunded' where subject_id = '{subject}'",
        "delete from app.ledger_transfers",
        "truncate app.ledger_transfers",
    ]
    claims = admin_claims(database, user)
    with connect(database.api_url) as conn:
        for statement in statements:
            with refused("42501"), scoped(conn, role, claims):
                conn.execute(statement.encode())
    assert ledger.balance(user) == (4, 1, 0)


def test_the_ledger_is_append_only_for_everyone(ledger: Ledger, database: TestDatabase) -> None:
    ledger.user(5)
    for statement in (
        "update app.ledger_transfers set amount = 1",
        "delete from app.ledger_transfers",
        "truncate app.ledger_transfers",
    ):
        with refused("JS500"):
            database.rows(statement)
