"""Reconciliation asks each grant for its reason: who mints by SQL is named, whatever he writes."""

import uuid

import pytest

from core import proofs
from core.nouns import NOUNS
from tests.harness.database import TestDatabase
from tests.harness.ledger import Conn, Ledger, connect

pytestmark = pytest.mark.drift


@pytest.fixture
def ada(ledger: Ledger) -> uuid.UUID:
    """Somebody whose credits came in through every door but a purchase."""
    user_id = ledger.verified("ada@example.com")
    ledger.open_account(user_id)
    ledger.redeem(user_id, ledger.code(credits_=9, uses_max=3, kind="gift")[1])
    ledger.code(credits_=5, uses_max=1)
    ledger.adjust(user_id, 7, "up:and:more")
    ledger.adjust(user_id, -30, "down")
    ledger.adjust(user_id, 40, "up")
    return user_id


def _found(database: TestDatabase) -> set[str]:
    """The checks that are red, of all that reconciliation runs."""
    return {
        row["check_name"]
        for statement in proofs.statements(NOUNS)
        for row in database.rows(statement)
    }


def test_credits_that_came_through_a_door_have_their_reason(
    database: TestDatabase, ada: uuid.UUID
) -> None:
    assert _found(database) == set()
    assert database.rows("select from app.credit_lots where user_id = %s", (ada,))


@pytest.mark.parametrize(
    ("check", "source", "key", "reference"),
    [
        ("signup_reason", "signup", "evil", None),
        ("signup_reason", "signup", "signup:{other}", None),
        ("code_reason", "promo", "evil", None),
        ("code_reason", "gift", "code:{new}:{ada}", None),
        ("unknown_reason", "referral", "evil", None),
        ("purchase_reason", "purchase", "evil", None),
        ("purchase_reason", "purchase", "evil", "order:{new}"),
        ("purchase_reason", "purchase", "order:{new}", "order:{new}"),
        ("adjustment_reason", "adjustment", "evil", None),
        ("adjustment_reason", "adjustment", "admin:{ada}:up2", None),
        ("adjustment_reason", "adjustment", "admin:{other}:up", None),
    ],
)
def test_a_grant_without_a_reason_is_named(
    ledger: Ledger, ada: uuid.UUID, *, check: str, source: str, key: str, reference: str | None
) -> None:
    names = {"ada": ada, "other": ledger.user(), "new": uuid.uuid4()}
    ledger.value(
        "select app.grant_credits(%s, 1000, %s, %s, null, %s)",
        ada,
        source,
        key.format(**names),
        reference and reference.format(**names),
    )
    assert check in _found(ledger.database)


def test_a_correction_down_needs_a_reason_too(ledger: Ledger, ada: uuid.UUID) -> None:
    ledger.value(
        "select app.claw_back(%s, 3, 'adjust', 'adjustments', 'evil', null, 'me', null)", ada
    )
    assert _found(ledger.database) == {"adjustment_reason"}


_COPY = (
    "insert into app.codes (id, issue_id, code_sha256, prefix, kind, credits, uses_max, created_by)"
    " select gen_random_uuid(), {issue}, sha256(code_sha256), prefix, kind, credits, uses_max,"
    " created_by from app.codes"
)
_OTHER = "(select id from app.users where id <> signup_grants.user_id)"


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("check", "statement"),
    [
        (
            "adjustment_reason",
            (
                "update app.audit_details set detail = jsonb_set(detail, '{amount}', '6')"
                " where (detail ->> 'amount')::integer = 7"
            ),
        ),
        ("adjustment_reason", "delete from app.audit_details; delete from app.audit_log"),
        (
            "adjustment_posted",
            (
                "insert into app.audit_log (actor, action, target)"
                " select 'me', 'credits.adjust', id from app.users"
            ),
        ),
        ("signup_reason", "delete from app.signup_grants"),
        ("signup_reason", f"update app.signup_grants set user_id = {_OTHER}"),
        ("code_reason", "delete from app.code_redemptions"),
        ("code_uses", "delete from app.code_redemptions"),
        ("code_redemption", "update app.code_redemptions set credits = credits + 1"),
        ("code_issue", "update app.codes set credits = 1000"),
        ("code_reason", "update app.codes set credits = 1000"),
        ("code_reason", "update app.codes set kind = 'promo'"),
        ("code_issue", _COPY.format(issue="issue_id")),
        ("code_issue", _COPY.format(issue="gen_random_uuid()")),
    ],
)
def test_a_reason_that_goes_or_changes_is_missed(
    ledger: Ledger, statement: str, check: str
) -> None:
    ledger.user()
    with connect(ledger.url) as conn:
        _run_unguarded(conn, statement)
    assert check in _found(ledger.database)


@pytest.mark.usefixtures("ada")
def test_a_correction_stays_proved_when_its_details_are_erased(ledger: Ledger) -> None:
    with connect(ledger.url) as conn:
        _run_unguarded(conn, "delete from app.audit_details")
    assert _found(ledger.database) == set()


def _run_unguarded(conn: Conn, statement: str) -> None:
    conn.execute("set session_replication_role = replica")
    conn.execute(statement.encode())
