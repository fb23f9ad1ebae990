"""Checks and figures of all nouns, read from the database."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from core.db import Connection, fetch_all, fetch_one
from core.noun import Check, Noun
from core.settings import Settings

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


class Unsafe(StrEnum):
    """What readiness warns of: it works, and is not set up as safely as it could be."""

    MAILER_AUTOCONFIRM = "mailer_autoconfirm"
    TEMPORARY_OBJECTS = "temporary_objects"
    UNNAMED_PROXY = "unnamed_proxy"


class Sample(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, Any]
    value: float


def shipped_schema_version(directory: Path = MIGRATIONS) -> str | None:
    """The newest migration beside this code; None where the files are not shipped."""
    return max((path.name.partition("_")[0] for path in directory.glob("*.sql")), default=None)


async def get_schema_version(conn: Connection) -> str | None:
    row = await fetch_one(conn, "select app.schema_version() as version")
    return None if row is None else row["version"]


async def list_checks(
    conn: Connection, nouns: Sequence[Noun[Any]], settings: Settings
) -> list[Check]:
    """The checks of each noun; one statement a noun."""
    checks: list[Check] = []
    for noun in nouns:
        if noun.health is not None:
            row = await fetch_one(conn, noun.health.query)
            assert row is not None
            checks += noun.health.check(row, settings)
    return checks


async def list_warnings(conn: Connection) -> list[Unsafe]:
    row = await fetch_one(
        conn,
        "select has_database_privilege('public', current_database(), 'temporary') as temporary",
    )
    assert row is not None
    return [Unsafe.TEMPORARY_OBJECTS] if row["temporary"] else []


async def list_samples(conn: Connection, nouns: Sequence[Noun[Any]]) -> list[Sample]:
    """The figures of every noun, in one statement."""
    figures = " union all ".join(noun.figures for noun in nouns if noun.figures is not None)
    rows = await fetch_all(
        conn,
        f"select name, labels, value from ({figures}) as figure (name, labels, value)"  # noqa: S608  own constants
        " order by name, labels::text",
    )
    return msgspec.convert(rows, list[Sample])
