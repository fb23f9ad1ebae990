"""Applying migrations and taking them back, and the ledger of what was applied.

The ledger is Supabase's own table with two columns more, so its CLI and dashboard see the same
history (checked with the CLI 3.1.0: extra columns are fine).
"""

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import psycopg
from psycopg.rows import class_row

from migrations.runner import files, temporary
from migrations.runner.cluster import cluster_lock
from migrations.runner.errors import MigrationError
from migrations.runner.files import MIGRATIONS, Migration

LOCK_TIMEOUT = "10s"
STATEMENT_TIMEOUT = "10min"

_LEDGER = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key,
  statements text[],
  name text
);
alter table supabase_migrations.schema_migrations
  add column if not exists checksum text,
  add column if not exists applied_at timestamptz default now();
"""


class Applied(msgspec.Struct, frozen=True):
    """A row of the ledger; checksum is None where another tool applied the migration."""

    version: str
    name: str | None
    checksum: str | None
    applied_at: dt.datetime | None


class Status(msgspec.Struct, frozen=True):
    """Disk against ledger."""

    applied: list[Applied]
    pending: list[Migration]
    changed: list[Migration]
    missing: list[Applied]

    @property
    def late(self) -> list[Migration]:
        """Pending, yet older than something applied: written on another branch, usually."""
        newest = max((row.version for row in self.applied), default="")
        return [migration for migration in self.pending if migration.version < newest]


@contextlib.contextmanager
def connect(url: str) -> Iterator[psycopg.Connection]:
    try:
        conn = psycopg.connect(
            url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=10,
            application_name="jewelshot-migrate",
        )
    except psycopg.OperationalError as error:
        raise MigrationError(f"cannot connect: {error}") from None
    with conn:
        yield conn


def status(url: str, directory: Path = MIGRATIONS) -> Status:
    """Compare without changing anything, not even making the ledger."""
    with connect(url) as conn:
        return _compare(files.load(directory), _read_ledger(conn))


def up(
    url: str,
    directory: Path = MIGRATIONS,
    *,
    to: str | None = None,
    include_late: bool = False,
) -> list[Migration]:
    """Apply what is pending, up to and including version `to`; what was applied.

    Raises: MigrationError, before anything runs if the ledger and the files disagree.
    """
    migrations = files.load(directory)
    _require_version(to, migrations)
    with cluster_lock(url), connect(url) as conn:
        prepare_ledger(conn)
        found = _compare(migrations, _read_ledger(conn))
        _refuse_disagreement(found)
        if found.late and not include_late:
            raise MigrationError(
                f"{_labels(found.late)}: older than what is applied already; rename to a later "
                "time, or apply with --include-late"
            )
        chosen = [each for each in found.pending if to is None or each.version <= to]
        for migration in chosen:
            _apply(conn, migration)
        temporary.revoke(conn)
        return chosen


def down(
    url: str,
    directory: Path = MIGRATIONS,
    *,
    to: str | None = None,
    steps: int | None = None,
) -> list[Migration]:
    """Take back the newest `steps` (default 1), or everything younger than `to` ("0": all)."""
    migrations = {each.version: each for each in files.load(directory)}
    if to is not None and to != "0":
        _require_version(to, list(migrations.values()))
    with cluster_lock(url), connect(url) as conn:
        rows = sorted(_read_ledger(conn), key=lambda row: row.version, reverse=True)
        if to is not None:
            rows = [row for row in rows if row.version > to]
        else:
            rows = rows[: 1 if steps is None else steps]
        unknown = [row.version for row in rows if row.version not in migrations]
        if unknown:
            raise MigrationError(f"applied, but not in {directory}: {', '.join(unknown)}")
        chosen = [migrations[row.version] for row in rows]
        for migration in chosen:
            _take_back(conn, migration)
        return chosen


def prepare_ledger(conn: psycopg.Connection) -> None:
    conn.execute("set client_min_messages = warning")
    with conn.transaction():
        conn.execute(_LEDGER.encode())


def run_file(conn: psycopg.Connection, path: Path, text: bytes) -> None:
    """Run a file in one transaction, outside the ledger. Raises: MigrationError."""
    with _one_transaction(conn, path, text):
        pass


def _read_ledger(conn: psycopg.Connection) -> list[Applied]:
    columns = {
        row[0]
        for row in conn.execute(
            "select column_name from information_schema.columns"
            " where table_schema = 'supabase_migrations' and table_name = 'schema_migrations'"
        )
    }
    if not columns:
        return []
    own = (
        "checksum, applied_at" if "checksum" in columns else "null as checksum, null as applied_at"
    )
    with conn.cursor(row_factory=class_row(Applied)) as cursor:
        query = (
            f"select version, name, {own}"  # noqa: S608  one of the two texts above
            " from supabase_migrations.schema_migrations order by version"
        )
        return cursor.execute(query.encode()).fetchall()


def _compare(migrations: Sequence[Migration], applied: list[Applied]) -> Status:
    on_disk = {migration.version: migration for migration in migrations}
    by_version = {row.version: row for row in applied}
    return Status(
        applied=applied,
        pending=[each for each in migrations if each.version not in by_version],
        changed=[
            on_disk[row.version]
            for row in applied
            if row.version in on_disk
            and row.checksum is not None
            and row.checksum != on_disk[row.version].checksum
        ],
        missing=[row for row in applied if row.version not in on_disk],
    )


def _refuse_disagreement(found: Status) -> None:
    if found.changed:
        raise MigrationError(
            f"{_labels(found.changed)}: changed since it was applied; restore the file and write "
            "a new migration instead"
        )
    if found.missing:
        versions = ", ".join(row.version for row in found.missing)
        raise MigrationError(
            f"applied, but not on disk: {versions}; this checkout is older than the database"
        )


def _require_version(version: str | None, migrations: Sequence[Migration]) -> None:
    if version is not None and version not in {each.version for each in migrations}:
        raise MigrationError(f"there is no migration {version}")


def _apply(conn: psycopg.Connection, migration: Migration) -> None:
    with _one_transaction(conn, migration.path, migration.sql):
        conn.execute(
            "insert into supabase_migrations.schema_migrations"
            " (version, statements, name, checksum) values (%s, %s, %s, %s)",
            (migration.version, [migration.sql.decode()], migration.name, migration.checksum),
        )


def _take_back(conn: psycopg.Connection, migration: Migration) -> None:
    with _one_transaction(conn, migration.down_path, migration.down_sql()):
        conn.execute(
            "delete from supabase_migrations.schema_migrations where version = %s",
            (migration.version,),
        )


@contextlib.contextmanager
def _one_transaction(conn: psycopg.Connection, path: Path, text: bytes) -> Iterator[None]:
    """Run a file and what the caller adds, both or neither."""
    refused = files.refusals(path.name, text)
    if refused:
        raise MigrationError("; ".join(refused))
    conn.execute("reset all")  # what the previous file set for its database session
    conn.execute("set client_min_messages = warning")
    try:
        with conn.transaction():
            conn.execute(
                "select set_config('lock_timeout', %s, true),"
                " set_config('statement_timeout', %s, true)",
                (LOCK_TIMEOUT, STATEMENT_TIMEOUT),
            )
            conn.execute(text)
            conn.execute("reset role")
            yield
    except psycopg.Error as error:
        raise MigrationError(f"{_where(path, text, error)}: {_describe(error)}") from error


def _where(path: Path, text: bytes, error: psycopg.Error) -> str:
    position = error.diag.statement_position
    if position is None:
        return path.name
    line = text.decode().count("\n", 0, int(position) - 1) + 1
    return f"{path.name}:{line}"


def _describe(error: psycopg.Error) -> str:
    parts = [error.diag.message_primary or str(error)]
    parts += [part for part in (error.diag.message_detail, error.diag.message_hint) if part]
    if error.diag.context:
        parts.append(error.diag.context)
    if error.sqlstate:
        parts.append(f"(SQLSTATE {error.sqlstate})")
    return "\n  ".join(parts)


def _labels(migrations: Sequence[Migration]) -> str:
    return ", ".join(migration.label for migration in migrations)
