"""The SQL calls of each kept release run on the present schema: old code meets it at a release."""

from pathlib import Path

import psycopg
import pytest

from scripts import sql_calls
from scripts.sql_calls import CALLS, Call, UnreadableError, collect, numbered, parse
from tests.harness.database import TestDatabase

RELEASES = sorted(CALLS.glob("*.sql"))

# Only a driver that says the type of a parameter can make it known; all else was looked at before.
_UNTYPED = "42P18"


def refused(database: TestDatabase, calls: list[Call]) -> list[str]:
    """Calls that the schema does not know any more, with what it says."""
    found = []
    with psycopg.connect(database.superuser_url, autocommit=True) as conn:
        for number, call in enumerate(calls):
            try:
                conn.execute(f"prepare call_{number} as {call.text}".encode())
            except psycopg.Error as error:
                if error.sqlstate != _UNTYPED:
                    found.append(f"{call.module}: {error.diag.message_primary}: {call.text}")
    return found


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_calls_of_a_release_are_still_understood(database: TestDatabase, path: Path) -> None:
    """Red: running code would fail. Expand first; take away a release later (MIGRATION_GUIDE)."""
    calls = parse(path.read_text())
    assert len(calls) > 50
    assert refused(database, calls) == []


@pytest.mark.drift
def test_a_function_that_is_gone_is_missed(database: TestDatabase) -> None:
    calls = parse(RELEASES[-1].read_text())
    database.rows("drop function app.idempotency_store")
    database.rows("alter table app.packs rename column title to name")
    lines = refused(database, calls)
    assert any("idempotency_store" in line for line in lines)
    assert any("title" in line for line in lines)


def test_the_list_of_this_version_is_that_of_the_code() -> None:
    """Red: `python -m scripts.sql_calls` writes it anew."""
    path = CALLS / f"{sql_calls.version()}.sql"
    assert path.exists()
    assert parse(path.read_text()) == collect()


def test_marks_become_numbers() -> None:
    text = "select %s, %(name)s, %(name)s, '%%' where a = any (%s)"
    assert numbered(text) == "select $1, $2, $2, '%' where a = any ($3)"


def test_texts_are_found_however_they_are_put_together(tmp_path: Path) -> None:
    for package in sql_calls.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "core" / "words.py").write_text('COLUMNS = "id, name"\n')
    (tmp_path / "core" / "queries.py").write_text(
        "from core.words import COLUMNS\n"
        'HEAD = f"select {COLUMNS} from app.things"\n'
        "def one(conn):\n"
        '    return conn.execute(f"{HEAD} where id = %s", (1,))\n'
        "def two(conn):\n"
        '    return conn.execute("delete from app.things" + " where true")\n'
    )
    assert [call.text for call in collect(tmp_path)] == [
        "delete from app.things where true",
        "select id, name from app.things where id = $1",
    ]
    (tmp_path / "worker" / "odd.py").write_text(
        'def odd(conn, table):\n    return conn.execute(f"select * from app.{table}")\n'
    )
    with pytest.raises(UnreadableError, match="table"):
        collect(tmp_path)
