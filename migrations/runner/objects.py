"""What a database holds of ours, object by object, to compare two of them.

Each object is a `Thing`: its kind, its name, and a text that is the same where the object is the
same, whatever the order in which columns were added and whoever named a NOT NULL constraint.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql

from migrations.runner.statements import split

_CATALOGUE = Path(__file__).with_suffix(".sql")


class Kind(StrEnum):
    SCHEMA = "schema"
    TABLE = "table"
    COLUMN = "column"
    CONSTRAINT = "constraint"
    INDEX = "index"
    VIEW = "view"
    TYPE = "type"
    ROW_SECURITY = "row security"
    POLICY = "policy"
    TRIGGER = "trigger"
    FUNCTION = "function"
    OWNER = "owner"
    COMMENT = "comment"
    GRANT = "grant"
    DEFAULT_GRANT = "default grant"
    SETTING = "setting"
    SEED = "seed"


Key = tuple[Kind, str]
# Kind and name → text.
Objects = dict[Key, str]


class Difference(msgspec.Struct, frozen=True):
    """`here` and `there` are None where the object is missing."""

    kind: Kind
    name: str
    here: str | None
    there: str | None

    def __str__(self) -> str:
        if self.here is None:
            return f"{self.kind} {self.name}: only there: {self.there}"
        if self.there is None:
            return f"{self.kind} {self.name}: only here: {self.here}"
        return f"{self.kind} {self.name}: here {self.here}, there {self.there}"


# A row's own time and random id say when it was made, not what it is.
_SEEDED_COLUMNS = """
select c.relname, array_agg(a.attname::text order by a.attname)
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'app'::regnamespace and c.relkind = 'r'
  and coalesce(pg_get_expr(d.adbin, d.adrelid), '') !~ '(now|clock_now|gen_random_uuid)\\('
group by c.relname
order by c.relname
"""


def read(conn: psycopg.Connection) -> Objects:
    """Everything in schema app, with what is granted and what rows it begins with."""
    conn.execute("set search_path = pg_catalog, pg_temp")  # so that names are written in full
    found: Objects = {}
    for statement in split(_CATALOGUE.read_text()):
        for kind, name, text in conn.execute(statement.encode()):
            found[Kind(kind), name] = text
    found.update(_seeds(conn))
    return found


def _seeds(conn: psycopg.Connection) -> Iterator[tuple[Key, str]]:
    for table, columns in conn.execute(_SEEDED_COLUMNS.encode()).fetchall():
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        query = sql.SQL("select to_jsonb(row)::text from (select {} from {}) as row").format(
            listed, sql.Identifier("app", table)
        )
        for (row,) in conn.execute(query).fetchall():
            yield (Kind.SEED, f"app.{table} {row}"), "there"


def compare(here: Objects, there: Objects) -> list[Difference]:
    """By kind and name; empty when both hold the same."""
    return [
        Difference(kind, name, here.get((kind, name)), there.get((kind, name)))
        for kind, name in sorted(here.keys() | there.keys())
        if here.get((kind, name)) != there.get((kind, name))
    ]
