"""The one table of events: its months, its documents, and who sees what."""

import json
import uuid

import pytest

from core.db import Database
from core.events import service
from core.nouns import NOUNS
from tests.harness.database import TestDatabase
from tests.harness.events import FOLDER, complaints, schemas, undocumented
from tests.harness.ledger import Ledger

_PARTITIONS = """
select child.relname as name,
  (select count(*) from app.events as event where event.tableoid = child.oid) as rows
from pg_inherits as link
join pg_class as child on child.oid = link.inhrelid
where link.inhparent = 'app.events'::regclass
order by 1
"""


def partitions(database: TestDatabase) -> dict[str, int]:
    return {row["name"]: row["rows"] for row in database.rows(_PARTITIONS)}


def month(database: TestDatabase, ahead: int = 0) -> str:
    row = database.row(
        "select 'events_' || to_char((now() at time zone 'utc') + make_interval(months => %s),"
        " 'YYYYMM') as name",
        (ahead,),
    )
    name: str = row["name"]
    return name


def emit(ledger: Ledger, user_id: uuid.UUID, age: str) -> None:
    ledger.database.rows(
        "insert into app.events (user_id, type, subject_id, payload, created_at)"
        " values (%s, 'credits.adjusted', %s, '{\"credits\": 1}', now() - %s::interval)",
        (user_id, user_id, age),
    )


async def test_months_are_made_ahead_and_old_ones_go(
    ledger: Ledger, database: TestDatabase, db_worker: Database
) -> None:
    user = ledger.user()
    for age in ("0 s", "100 days"):
        emit(ledger, user, age)
    assert partitions(database) == {"events_default": 2}
    made = await db_worker.run(service.rotate)
    assert made == 3
    ahead = {month(database, number): 0 for number in range(3)}
    assert partitions(database) == {"events_default": 0, **ahead, month(database): 1}
    assert await db_worker.run(service.rotate) == 0

    emit(ledger, user, "0 s")
    assert partitions(database)[month(database)] == 2
    database.rows(
        "create table app.events_202001 partition of app.events"
        " for values from ('2020-01-01 00:00+00') to ('2020-02-01 00:00+00')"
    )
    assert await db_worker.run(service.rotate) == 1
    assert "events_202001" not in partitions(database)


async def test_a_partition_is_as_closed_as_the_table(
    database: TestDatabase, db_worker: Database
) -> None:
    await db_worker.run(service.rotate)
    for name in partitions(database):
        row = database.row(
            "select relrowsecurity and relforcerowsecurity as is_forced,"
            " array(select grantee::regrole::text from aclexplode(relacl)"
            "   where grantee <> relowner) as others"
            " from pg_class where oid = %s::regclass",
            (f"app.{name}",),
        )
        assert row == {"is_forced": True, "others": []}, name


@pytest.mark.drift
def test_a_row_that_no_schema_describes_is_seen(ledger: Ledger, database: TestDatabase) -> None:
    user = ledger.user()
    emit(ledger, user, "0 s")
    assert undocumented(database) == []
    database.rows('update app.events set payload = \'{"credits": 1, "mail": "a@b.c"}\'')
    assert "mail" in undocumented(database)[0]
    database.rows("update app.events set type = 'credits.vanished'")
    assert "no docs/events" in undocumented(database)[0]


def test_each_type_has_a_document_and_each_document_a_noun() -> None:
    types = [each for noun in NOUNS for each in noun.events]
    assert sorted(types) == sorted(schemas()), "each type belongs to one noun"
    for path in FOLDER.glob("*.json"):
        document = json.loads(path.read_text())
        assert document["properties"]["type"]["const"] == document["title"] == path.stem
        assert document["properties"]["payload"]["additionalProperties"] is False


def test_documents_say_what_is_wrong() -> None:
    event = {"type": "credits.ran_out", "payload": {}}
    assert any("available" in line for line in complaints(event))
