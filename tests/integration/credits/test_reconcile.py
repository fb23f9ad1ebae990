"""Reconciliation names every changed, lost and alien row of every money table.

A rich history is made with the real functions. Then each column of each row is changed, each row
is deleted and aliens are inserted, as a superuser with all guards off, each in a savepoint.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from sandbox.stack import LocalStack
from scripts.reconcile import main
from tests.harness.database import PROOFS, TestDatabase
from tests.harness.ledger import Conn, Ledger, connect

pytestmark = pytest.mark.drift

MONEY_TABLES = {
    "users": "id::text",
    "credit_accounts": "user_id::text",
    "credit_lots": "id::text",
    "reservations": "id::text",
    "reservation_lots": "reservation_id || '/' || lot_id",
    "ledger_transfers": "id::text",
}

# Columns that no other row can vouch for, and that no balance depends on.
NOT_MONEY = {
    ("users", "created_at"),
    ("credit_accounts", "updated_at"),
    ("reservations", "api_key_id"),
    ("credit_lots", "is_paid"),  # generated from source
}

# What a hostile hand would write, by type; a column of a type that is missing here fails.
CHANGES: dict[str, list[str]] = {
    "uuid": ["gen_random_uuid()"],
    "bigint": ["coalesce({0}, 0) + 1", "{0} - 1", "-{0}"],
    "text": ["{0} || 'x'", "''", "'x'", "null"],
    "timestamp with time zone": ["{0} + interval '1 microsecond'", "app.now()", "null"],
    "bytea": ["sha256({0})"],
}
WORDS = {
    "source": ["purchase", "signup", "promo", "gift", "referral", "adjustment"],
    "state": ["pending", "confirmed", "refunded"],
    "purpose": ["run", "late_image"],
    "kind": ["grant", "reserve", "confirm", "refund", "expire", "reverse", "adjust"],
    "debit": ["available", "reserved", "debt", "sales", "signup", "promo", "adjustments"],
    "credit": ["available", "reserved", "debt", "usage", "expired", "sales", "adjustments"],
}


@pytest.fixture
def history(database: TestDatabase) -> Ledger:
    """Every kind of line, state and source; one person in debt, one with expired credits."""
    ledger = Ledger(database)
    ada = ledger.verified("ada@example.com")
    ledger.open_account(ada)
    photo = ledger.upload(ada)
    ledger.grant(ada, 5, reference="pi_1")
    ledger.grant(ada, 3, source="promo", lives="1 day")
    ledger.finish(ledger.start(ada, photo), "succeeded")
    ledger.finish(ledger.start(ada, photo), "failed")
    ledger.adjust(ada, 4, "up")
    ledger.adjust(ada, -2, "down")
    held = ledger.reserve(ada, 1)
    ledger.clock.advance(days=2)
    ledger.expire()
    ledger.refund(ada, held)
    ledger.start(ada, photo)
    bob = ledger.user(10, reference="pi_2")
    held = ledger.reserve(bob, 3)
    ledger.confirm(bob, ledger.reserve(bob, 6))
    ledger.reverse(bob, 10, "re_1", "pi_2")
    ledger.refund(bob, held)
    ledger.grant(bob, 2, source="referral")
    ledger.user()
    assert database.drift() == []
    return ledger


@pytest.fixture
def honest_history(database: TestDatabase) -> Ledger:
    """Something in each table, and a reason for each credit."""
    ledger = Ledger(database)
    ada = ledger.verified("ada@example.com")
    ledger.open_account(ada)
    photo = ledger.upload(ada)
    ledger.adjust(ada, 4, "up")
    ledger.finish(ledger.start(ada, photo), "succeeded")
    ledger.finish(ledger.start(ada, photo), "failed")
    return ledger


@pytest.fixture
def hand(history: Ledger) -> Iterator[Conn]:
    """A superuser in one transaction, with no trigger, foreign key, check or uniqueness left."""
    with connect(history.url) as conn, conn.transaction(force_rollback=True):
        conn.execute("alter table app.ledger_transfers alter column id drop identity")
        constraints = conn.execute(
            "select conrelid::regclass::text as name, conname from pg_constraint"
            " where connamespace = 'app'::regnamespace and conrelid <> 0"
            " and conrelid = any (%s::regclass[]) order by contype <> 'f', contype <> 'p'",
            ([f"app.{table}" for table in MONEY_TABLES],),
        ).fetchall()
        for constraint in constraints:
            conn.execute(
                sql.SQL("alter table {} drop constraint if exists {} cascade").format(
                    sql.Identifier(*constraint["name"].split(".")),
                    sql.Identifier(constraint["conname"]),
                )
            )
        for table in MONEY_TABLES:
            conn.execute(
                sql.SQL("alter table app.{} disable trigger all").format(sql.Identifier(table))
            )
            for column in columns_of(conn, table):
                if column != ("credit_lots", "is_paid"):
                    conn.execute(
                        sql.SQL("alter table app.{} alter column {} drop not null").format(
                            sql.Identifier(table), sql.Identifier(column[1])
                        )
                    )
        yield conn


def columns_of(conn: Conn, table: str) -> dict[tuple[str, str], str]:
    return {
        (table, row["column_name"]): row["data_type"]
        for row in conn.execute(
            "select column_name, data_type from information_schema.columns"
            " where table_schema = 'app' and table_name = %s order by ordinal_position",
            (table,),
        ).fetchall()
    }


def drift_after(conn: Conn, statement: str, params: tuple[Any, ...] = ()) -> set[tuple[str, str]]:
    """(table, row) of what reconciliation says after `statement`, which is then undone."""
    with conn.transaction(force_rollback=True):
        changed = conn.execute(statement.encode(), params or None)
        if changed.rowcount == 0:
            return {("nothing", "changed")}
        rows = conn.execute(PROOFS.encode()).fetchall()
    return {(row["table_name"], row["row_id"]) for row in rows}


def rows_of(conn: Conn, table: str) -> list[dict[str, Any]]:
    return conn.execute(
        f"select ctid::text as place, {MONEY_TABLES[table]} as row_id, * from app.{table}".encode()
    ).fetchall()


@pytest.mark.parametrize("table", MONEY_TABLES)
def test_each_changed_column_of_each_row_is_named(hand: Conn, table: str) -> None:
    rows = rows_of(hand, table)
    assert rows
    for (_, column), data_type in columns_of(hand, table).items():
        if (table, column) in NOT_MONEY:
            continue
        changes = [change.format(column) for change in CHANGES[data_type]]
        changes += [f"'{word}'" for word in WORDS.get(column, [])]
        tried = 0
        for row in rows:
            for change in changes:
                found = drift_after(
                    hand,
                    f"update app.{table} set {column} = {change}"
                    f" where ctid = '{row['place']}' and {column} is distinct from {change}",
                )
                if found == {("nothing", "changed")}:
                    continue
                tried += 1
                named = {row_id for name, row_id in found if name == table}
                is_id = column in {"id", "user_id", "reservation_id", "lot_id"}
                assert row["row_id"] in named or (is_id and named), (
                    f"{table}.{column} = {change} of {row['row_id']}: {found}"
                )
        assert tried, column


@pytest.mark.parametrize("table", MONEY_TABLES)
def test_each_deleted_row_is_named(hand: Conn, table: str) -> None:
    for row in rows_of(hand, table):
        found = drift_after(hand, f"delete from app.{table} where ctid = '{row['place']}'")
        expected = f"of user {row['user_id']}" if table == "ledger_transfers" else row["row_id"]
        assert (table, expected) in found, (row, found)


@pytest.mark.parametrize(
    ("table", "identity", "another"),
    [
        ("users", "id", "gen_random_uuid()"),
        ("credit_accounts", "user_id", "gen_random_uuid()"),
        ("credit_lots", "id", "gen_random_uuid()"),
        ("reservations", "id", "gen_random_uuid()"),
        ("reservation_lots", "lot_id", "gen_random_uuid()"),
        ("ledger_transfers", "id", "id + 1000000"),
    ],
)
def test_each_row_again_under_another_id_is_named(
    hand: Conn, table: str, identity: str, another: str
) -> None:
    columns = [name for _, name in columns_of(hand, table) if name != "is_paid"]
    listed = ", ".join(another if name == identity else name for name in columns)
    for row in rows_of(hand, table):
        found = drift_after(
            hand,
            f"insert into app.{table} ({', '.join(columns)})"
            f" select {listed} from app.{table} where ctid = '{row['place']}'",
        )
        assert table in {name for name, _ in found}, (row, found)


@pytest.mark.usefixtures("history")
def test_a_well_formed_alien_line_is_noticed(database: TestDatabase) -> None:
    """With every guard on: only the sums can tell."""
    lot = database.row(
        "select id, user_id from app.credit_lots where remaining > 0 order by id limit 1"
    )
    database.rows(
        "insert into app.ledger_transfers"
        " (idempotency_key, kind, debit, credit, amount, user_id, lot_id)"
        " values (%s, 'adjust', 'available', 'adjustments', 1, %s, %s)",
        (f"adjust:mine:{lot['id']}", lot["user_id"], lot["id"]),
    )
    found = {(row["table_name"], row["row_id"]) for row in database.drift()}
    assert ("ledger_transfers", f"of user {lot['user_id']}") in found


def test_swapped_amounts_that_leave_all_sums_are_noticed(hand: Conn) -> None:
    found = drift_after(
        hand,
        "update app.credit_lots set remaining = remaining + case"
        " when id = (select id from app.credit_lots where remaining > 1 order by id limit 1)"
        "   then -1 else 1 end"
        " where user_id = (select user_id from app.credit_lots where remaining > 1"
        "   order by id limit 1)"
        " and id in (select id from app.credit_lots order by id)",
    )
    assert "credit_lots" in {table for table, _ in found}


def test_money_without_a_subject_is_noticed(history: Ledger, database: TestDatabase) -> None:
    user = history.user(5)
    history.value("select app.reserve(%s, 1, 'run', %s)", user, uuid.uuid4())
    assert {row["check_name"] for row in database.drift()} == {"reservation_subject"}


@pytest.mark.parametrize("state", ["succeeded", "cancelled", "failed"])
@pytest.mark.usefixtures("history")
def test_a_generation_that_ends_without_its_money(database: TestDatabase, state: str) -> None:
    database.rows("alter table app.generations disable trigger all")
    database.rows(
        "update app.generations set state = %s, finished_at = app.now(), line = null,"
        " ending = case when %s <> 'succeeded' then 'provider_failed' end,"
        " result = case when %s = 'succeeded' then '{}'::jsonb end where state = 'queued'",
        (state, state, state),
    )
    assert [row["check_name"] for row in database.drift()] == ["generation_money"]


@pytest.mark.usefixtures("history")
def test_money_held_past_the_clock_that_runs_is_noticed(database: TestDatabase) -> None:
    database.clock.advance_past("select wait_until from app.generations where state = 'queued'")
    assert database.drift() == []
    database.clock.advance(minutes=6)
    assert [row["check_name"] for row in database.drift()] == ["reservation_overdue"]


def test_free_credits_that_never_came_are_noticed(history: Ledger, database: TestDatabase) -> None:
    user = history.user()
    database.rows(
        "insert into app.signup_grants (person_key, user_id, network) values ('k', %s, 'n')",
        (user,),
    )
    assert [row["check_name"] for row in database.drift()] == ["signup_grant"]


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("users", "update app.users set id = gen_random_uuid()"),
        ("credit_accounts", "update app.credit_accounts set available = available + 1"),
        ("credit_lots", "update app.credit_lots set remaining = remaining - 1"),
        ("reservations", "update app.reservations set amount = amount + 1"),
        ("reservation_lots", "update app.reservation_lots set amount = amount + 1"),
        ("ledger_transfers", "update app.ledger_transfers set amount = amount + 1"),
    ],
)
@pytest.mark.usefixtures("honest_history")
def test_the_command_names_table_and_row(
    database: TestDatabase,
    capsys: pytest.CaptureFixture[str],
    table: str,
    statement: str,
) -> None:
    assert main(["--url", database.migration_url]) == 0
    assert "0 drift" in capsys.readouterr().out
    row_id = MONEY_TABLES[table]
    with psycopg.connect(database.superuser_url, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        where = "where remaining > 0" if table == "credit_lots" else ""
        changed = conn.execute(
            f"with chosen as (select ctid as place, {row_id} as row_id from app.{table} {where}"
            f" limit 1) {statement} from chosen where {table}.ctid = chosen.place"
            " returning chosen.row_id".encode()
        ).fetchone()
    assert changed is not None
    assert main(["--url", database.migration_url]) == 1
    said = capsys.readouterr()
    assert any(line.split()[:2] == [table, changed[0]] for line in said.out.splitlines()), said.out
    assert "DRIFT" in said.err
    assert main(["--url", database.migration_url, "--json"]) == 1
    report = msgspec.json.decode(capsys.readouterr().out)
    assert (table, changed[0]) in {(row["table"], row["row_id"]) for row in report["drift"]}


def test_the_command_says_when_it_cannot_tell(
    database: TestDatabase,
    empty_database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MIGRATION_DATABASE_URL", raising=False)
    assert main(["--state-dir", str(tmp_path)]) == 2
    assert "MIGRATION_DATABASE_URL" in capsys.readouterr().err
    assert main(["--url", empty_database.superuser_url]) == 2
    assert "make migrate" in capsys.readouterr().err
    assert main(["--url", database.api_url, "--json"]) == 2
    assert "may not run the proof" in msgspec.json.decode(capsys.readouterr().out)["error"]
    assert main(["--url", "postgresql://nobody:x@127.0.0.1:1/none"]) == 2
    assert "cannot tell" in capsys.readouterr().err
    assert main(["--url", database.worker_url]) == 0


def test_a_role_that_sees_a_part_does_not_call_it_balanced(
    database: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    database.rows("alter function app.prove_generations() owner to jewelshot_ledger")
    assert main(["--url", database.worker_url]) == 2
    assert "row-level security" in capsys.readouterr().err


@pytest.mark.slow
def test_the_local_stack_is_found_running_or_not(
    own_stack: LocalStack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MIGRATION_DATABASE_URL", raising=False)
    arguments = ["--state-dir", str(own_stack.state_dir)]
    assert main(arguments) == 0
    assert own_stack.postgres.is_running()
    own_stack.postgres.stop()
    assert main(arguments) == 0
    assert not own_stack.postgres.is_running()
    assert capsys.readouterr().out.count("0 drift") == 2
