"""A row of each user in every table whose rows belong to one, whatever the table looks like."""

import graphlib
import secrets
import uuid
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from tests.harness.database import TestDatabase

_COLUMNS = """
select a.attname as name, format_type(a.atttypid, null) as type,
  a.attnotnull and not a.atthasdef as is_required,
  exists (
    select from pg_index where indrelid = a.attrelid and indisprimary and a.attnum = any(indkey)
  ) as is_key
from pg_attribute as a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
  and a.attidentity = '' and a.attgenerated = ''
order by a.attnum
"""

_REFERENCES = """
select c.relname as table_name, a.attname as column_name, f.relname as parent,
  pa.attname as parent_column
from pg_constraint as con
join pg_class as c on c.oid = con.conrelid
join pg_class as f on f.oid = con.confrelid
join pg_attribute as a on a.attrelid = c.oid and a.attnum = con.conkey[1]
join pg_attribute as pa on pa.attrelid = f.oid and pa.attnum = con.confkey[1]
where con.contype = 'f' and c.relnamespace = 'app'::regnamespace and cardinality(con.conkey) = 1
  and not c.relispartition
"""

_CHECKS = """
select c.relname as table_name, con.conname as name
from pg_constraint as con
join pg_class as c on c.oid = con.conrelid
where con.contype = 'c' and c.relnamespace = 'app'::regnamespace and not c.relispartition
"""


def fill(database: TestDatabase, users: list[str]) -> set[str]:
    """Fill the tables; their names. Rules about values are dropped first: only the owner matters.

    A row belongs to a user if it names one, or names a row that does.
    """
    for check in database.rows(_CHECKS):
        drop = sql.SQL("alter table {} drop constraint {}").format(
            sql.Identifier("app", check["table_name"]), sql.Identifier(check["name"])
        )
        database.rows(drop.as_string())
    references: dict[str, dict[str, tuple[str, str]]] = {}
    for row in database.rows(_REFERENCES):
        parents = references.setdefault(row["table_name"], {})
        parents[row["column_name"]] = (row["parent"], row["parent_column"])

    made: dict[tuple[str, str], dict[str, Any]] = {}
    database.rows("set session_replication_role = replica")  # no triggers, no foreign keys
    for table in _owned_in_order(references):
        for user in users:
            values = {
                column: made[parent, user][parent_column]
                for column, (parent, parent_column) in references.get(table, {}).items()
                if (parent, user) in made
            }
            made[table, user] = _insert(database, table, values or {"id": user})
    database.rows("set session_replication_role = origin")
    return {table for table, _ in made}


def _owned_in_order(references: dict[str, dict[str, tuple[str, str]]]) -> list[str]:
    """The tables that lead to `users`, each after those it refers to."""
    parents = {
        table: {parent for parent, _ in columns.values()} - {table}
        for table, columns in references.items()
    }
    owned = {"users"}
    while found := {table for table in parents if parents[table] & owned} - owned:
        owned |= found
    order = graphlib.TopologicalSorter(
        {table: parents.get(table, set()) & owned for table in owned}
    )
    return list(order.static_order())


def _insert(database: TestDatabase, table: str, values: dict[str, Any]) -> dict[str, Any]:
    for column in database.rows(_COLUMNS, [f"app.{table}"]):
        if column["name"] not in values and (column["is_required"] or column["is_key"]):
            values[column["name"]] = _value(column["type"])
    names = sql.SQL(", ").join(map(sql.Identifier, values))
    marks = sql.SQL(", ").join(sql.Placeholder() * len(values))
    insert = sql.SQL("insert into {} ({}) values ({}) returning *").format(
        sql.Identifier("app", table), names, marks
    )
    return database.row(insert.as_string(), list(values.values()))


def _value(type_name: str) -> Any:
    if type_name.endswith("[]"):
        return []
    values: dict[str, Any] = {
        "uuid": uuid.uuid4(),
        "text": secrets.token_hex(8),
        "bytea": secrets.token_bytes(8),
        "jsonb": Jsonb({}),
        "boolean": False,
        "timestamp with time zone": "2026-01-01T00:00:00Z",
    }
    return values.get(type_name, secrets.randbelow(10_000))
