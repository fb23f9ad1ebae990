"""The migrations as files, and the way there and back."""

from pathlib import Path

from migrations.runner import commands as runner
from migrations.runner import files
from sandbox.stack.platform import LOGIN_ROLES, apply_platform
from scripts.roundtrip import run_roundtrip
from tests.harness.database import TestDatabase


def test_every_migration_has_a_way_back_and_no_secret() -> None:
    assert files.load()
    assert files.problems() == []


def test_up_down_up_leaves_the_same_schema(empty_database: TestDatabase) -> None:
    assert run_roundtrip(empty_database.superuser_url) == []
    # Migrated again: each table is there and so is its seed.
    assert empty_database.row("select count(*) > 0 as seeded from app.operations")["seeded"]


def test_a_way_back_that_forgets_something_is_seen(
    empty_database: TestDatabase, tmp_path: Path
) -> None:
    (tmp_path / "down").mkdir()
    name = "20260101000000_thing.sql"
    (tmp_path / name).write_text("create schema thing; create table thing.t (id int primary key);")
    (tmp_path / "down" / name).write_text("drop table thing.t; alter schema thing rename to old;")
    lines = run_roundtrip(empty_database.superuser_url, tmp_path)
    assert "+CREATE SCHEMA old;" in lines


def test_the_newest_can_be_taken_back_and_applied_alone(database: TestDatabase) -> None:
    newest = files.load()[-1]
    assert runner.down(database.migration_url) == [newest]
    assert runner.up(database.migration_url) == [newest]


_PLATFORM = """
select 'relation', oid::regclass::text, coalesce(relacl::text, '') from pg_class
where relnamespace in ('auth'::regnamespace, 'storage'::regnamespace)
union all
select 'function', oid::regprocedure::text, coalesce(proacl::text, '') || md5(prosrc) from pg_proc
where pronamespace in ('auth'::regnamespace, 'storage'::regnamespace)
union all
select 'column', attrelid::regclass || '.' || attname, atttypid::regtype::text
from pg_attribute join pg_class on pg_class.oid = attrelid
where relnamespace in ('auth'::regnamespace, 'storage'::regnamespace)
union all
select 'trigger', tgrelid::regclass || '.' || tgname, tgfoid::regprocedure::text
from pg_trigger join pg_class on pg_class.oid = tgrelid
where relnamespace in ('auth'::regnamespace, 'storage'::regnamespace) and not tgisinternal
union all
select 'policy', tablename || '.' || policyname, '' from pg_policies
where schemaname in ('auth', 'storage') and tablename <> 'objects'
order by 1, 2, 3
"""


def test_nothing_of_the_platform_is_changed(
    database: TestDatabase, empty_database: TestDatabase
) -> None:
    """Hosted, schemas auth and storage are not ours to change, though a local server lets us."""
    apply_platform(
        empty_database.superuser_url,
        dict.fromkeys(("postgres", *LOGIN_ROLES), empty_database.server.password),
    )
    # One trigger may be: the platform gives the right, and none to drop it but with its function.
    ours = [row for row in database.rows(_PLATFORM) if "app.note_admin_role()" in row.values()]
    assert len(ours) == 1
    others = [row for row in database.rows(_PLATFORM) if row not in ours]
    assert others == empty_database.rows(_PLATFORM)
    database.rows("alter table storage.objects add column mine text")
    assert database.rows(_PLATFORM) != empty_database.rows(_PLATFORM)
