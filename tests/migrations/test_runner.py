"""The runner itself, on migrations made for the purpose."""

import concurrent.futures
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from migrations.runner import commands as runner
from migrations.runner import files, roles
from migrations.runner.errors import MigrationError
from tests.harness.database import TestDatabase

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a migration and its way back into the folder; the folder."""
    (tmp_path / "down").mkdir()

    def make(version: int, up: str, down: str = "select 1;") -> Path:
        name = f"202601010000{version:02d}_step_{version}.sql"
        (tmp_path / name).write_text(up)
        (tmp_path / "down" / name).write_text(down)
        return tmp_path

    return make


def _version(number: int) -> str:
    return f"202601010000{number:02d}"


def test_up_records_what_supabase_records(empty_database: TestDatabase, write: Write) -> None:
    folder = write(1, "create table public.one (id int primary key);")
    assert len(runner.up(empty_database.migration_url, folder)) == 1
    assert runner.up(empty_database.migration_url, folder) == []
    row = empty_database.row(
        "select version, name, statements, checksum, applied_at is not null as is_dated"
        " from supabase_migrations.schema_migrations"
    )
    assert row == {
        "version": _version(1),
        "name": "step_1",
        "statements": ["create table public.one (id int primary key);"],
        "checksum": files.load(folder)[0].checksum,
        "is_dated": True,
    }


def test_rows_of_supabases_own_tool_are_accepted(
    empty_database: TestDatabase, write: Write
) -> None:
    folder = write(1, "create table public.one (id int primary key);")
    with runner.connect(empty_database.migration_url) as conn:
        conn.execute("create schema supabase_migrations")
        conn.execute(
            "create table supabase_migrations.schema_migrations"
            " (version text primary key, statements text[], name text)"
        )
        conn.execute(
            "insert into supabase_migrations.schema_migrations values (%s, null, null)",
            (_version(1),),
        )
    assert runner.status(empty_database.migration_url, folder).pending == []
    assert runner.up(empty_database.migration_url, folder) == []


def test_a_failing_file_leaves_nothing(empty_database: TestDatabase, write: Write) -> None:
    write(1, "create table public.one (id int primary key);")
    folder = write(2, "create table public.two (id int);\n\ninsert into public.nowhere values (1);")
    with pytest.raises(MigrationError, match=r"step_2\.sql:3: .*public\.nowhere"):
        runner.up(empty_database.migration_url, folder)
    assert empty_database.row("select to_regclass('public.two') as two") == {"two": None}
    assert [row.version for row in runner.status(empty_database.migration_url, folder).applied] == [
        _version(1)
    ]


def test_a_changed_file_is_refused(empty_database: TestDatabase, write: Write) -> None:
    folder = write(1, "create table public.one (id int primary key);")
    runner.up(empty_database.migration_url, folder)
    write(1, "create table public.one (id bigint primary key);")
    with pytest.raises(MigrationError, match="changed since it was applied"):
        runner.up(empty_database.migration_url, folder)


def test_other_line_ends_are_no_change(empty_database: TestDatabase, write: Write) -> None:
    folder = write(1, "create table public.one (\n  id int primary key\n);\n")
    runner.up(empty_database.migration_url, folder)
    path = files.load(folder)[0].path
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert runner.up(empty_database.migration_url, folder) == []


def test_a_file_that_disappeared_is_refused(empty_database: TestDatabase, write: Write) -> None:
    folder = write(1, "select 1;")
    runner.up(empty_database.migration_url, folder)
    files.load(folder)[0].path.unlink()
    with pytest.raises(MigrationError, match="not on disk"):
        runner.up(empty_database.migration_url, folder)
    with pytest.raises(MigrationError, match="applied, but not in"):
        runner.down(empty_database.migration_url, folder)


def test_a_late_file_needs_to_be_asked_for(empty_database: TestDatabase, write: Write) -> None:
    folder = write(2, "select 2;")
    runner.up(empty_database.migration_url, folder)
    write(1, "select 1;")
    with pytest.raises(MigrationError, match="--include-late"):
        runner.up(empty_database.migration_url, folder)
    assert len(runner.up(empty_database.migration_url, folder, include_late=True)) == 1


def test_down_goes_as_far_as_asked(empty_database: TestDatabase, write: Write) -> None:
    for number in (1, 2, 3, 4):
        folder = write(
            number,
            f"create table public.t{number} (id int primary key);",
            f"drop table public.t{number};",
        )
    url = empty_database.migration_url
    runner.up(url, folder, to=_version(3))
    assert len(runner.status(url, folder).pending) == 1
    assert [each.version for each in runner.down(url, folder)] == [_version(3)]
    assert [each.version for each in runner.down(url, folder, steps=1)] == [_version(2)]
    runner.up(url, folder)
    assert len(runner.down(url, folder, to=_version(1))) == 3
    assert len(runner.down(url, folder, to="0")) == 1
    assert runner.status(url, folder).applied == []
    with pytest.raises(MigrationError, match="there is no migration"):
        runner.down(url, folder, to="20200101000000")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("create table public.one (id int);\ncommit;", "transaction"),
        ("BEGIN;\nselect 1;", "transaction"),
        ("alter role jewelshot_api login password 'secret';", "password"),
    ],
)
def test_a_file_that_must_not_run_does_not(
    empty_database: TestDatabase, write: Write, text: str, why: str
) -> None:
    folder = write(1, text)
    with pytest.raises(MigrationError, match=why):
        runner.up(empty_database.migration_url, folder)
    assert why in " ".join(files.problems(folder))


def test_settings_of_one_file_end_with_it(empty_database: TestDatabase, write: Write) -> None:
    write(1, "set search_path = pg_catalog; set role supabase_storage_admin;")
    folder = write(
        2,
        "do $$ begin\n"
        "  assert current_setting('search_path') <> 'pg_catalog';\n"
        "  assert current_user <> 'supabase_storage_admin';\n"
        "  assert current_setting('lock_timeout') = '10s';\n"
        "end $$;",
    )
    assert len(runner.up(empty_database.migration_url, folder)) == 2


@pytest.mark.race
def test_four_at_once_apply_each_file_once(empty_database: TestDatabase, write: Write) -> None:
    for number in (1, 2, 3):
        folder = write(number, f"create table public.t{number} (id int primary key);")
    url = empty_database.migration_url
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: runner.up(url, folder), range(4)))
    assert sorted(len(each) for each in applied) == [0, 0, 0, 3]


def test_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "001_short.sql").write_text("select 1;")
    with pytest.raises(MigrationError, match="must be <yyyymmddhhmmss>"):
        files.load(tmp_path)


def test_new_makes_both_files(tmp_path: Path) -> None:
    made = files.create("Add credit packs!", tmp_path)
    assert made.path.name == f"{made.version}_add_credit_packs.sql"
    assert files.load(tmp_path) == [made]
    assert files.problems(tmp_path) == []
    with pytest.raises(MigrationError, match="no letters"):
        files.create("!!!", tmp_path)


def test_passwords_come_from_the_urls_of_our_roles_only() -> None:
    found = roles.passwords_from_urls(
        {
            "DATABASE_URL": "postgresql://jewelshot_api.projectref:pa%40ss@pooler:6543/postgres",
            "WORKER_DATABASE_URL": "postgresql://jewelshot_worker:other@db/postgres",
        }
    )
    assert found == {"jewelshot_api": "pa@ss", "jewelshot_worker": "other"}
    with pytest.raises(MigrationError, match="signs in as postgres"):
        roles.passwords_from_urls({"DATABASE_URL": "postgresql://postgres:x@db/postgres"})
    with pytest.raises(MigrationError, match="no password"):
        roles.passwords_from_urls({"DATABASE_URL": "postgresql://jewelshot_api@db/postgres"})


def test_temporary_objects_are_the_owners_alone(database: TestDatabase) -> None:
    """Neither a clone nor a restore brings that along: `up` says it again, and `verify` looks."""

    def run(command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "migrations", command],
            env={"MIGRATION_DATABASE_URL": database.migration_url},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr

    assert run("verify") == ""
    database.rows(f"grant temporary on database {database.name} to public")
    assert "temporary objects" in run("verify")
    run("up")
    assert run("verify") == ""


def test_the_command_line(database: TestDatabase) -> None:
    """`roles` sets the password that the test's server has already, so nothing else notices."""

    def run(*arguments: str, url: str = database.migration_url) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "migrations", *arguments],
            env={"MIGRATION_DATABASE_URL": url, "DATABASE_URL": database.api_url},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert run("up") == (0, "up to date\n", "")
    code, out, _ = run("status")
    assert (code, out.count("applied"), "pending" in out) == (0, len(files.load()), False)
    assert run("verify")[0] == 0
    assert run("roles") == (0, "can sign in: jewelshot_api\n", "")
    with psycopg.connect(database.api_url) as conn:
        assert conn.execute("select current_user").fetchone() == ("jewelshot_api",)
    assert run("down", "--to", "123")[0] == 1
    code, _, errors = run("up", url="")
    assert code == 1
    assert "MIGRATION_DATABASE_URL is not set" in errors
    assert "superuser" in run("up", url=database.superuser_url)[2]
    assert database.server.password not in "".join(map(str, run("status")))
