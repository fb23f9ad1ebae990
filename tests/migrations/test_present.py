"""schema/ is what the migrations make, and a draft leads from one to the other."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from migrations.runner import commands as runner
from migrations.runner import files, objects, present
from migrations.runner.draft import Draft, draft
from migrations.runner.errors import MigrationError
from migrations.runner.objects import Kind, Objects
from migrations.runner.statements import split
from sandbox.stack.platform import LOGIN_ROLES, apply_platform
from scripts.new_migration import sources_of
from tests.harness.database import TestDatabase

pytestmark = pytest.mark.drift


def read(database: TestDatabase) -> Objects:
    with psycopg.connect(database.superuser_url, autocommit=True) as conn:
        return objects.read(conn)


def build(database: TestDatabase, directory: Path = present.PRESENT) -> Objects:
    """The present text in an empty database."""
    password = database.server.password
    role = apply_platform(
        database.superuser_url, dict.fromkeys(("postgres", *LOGIN_ROLES), password)
    )
    present.build(make_conninfo(database.superuser_url, user=role, password=password), directory)
    return read(database)


def test_the_present_text_and_the_migrations_make_the_same(
    database: TestDatabase, empty_database: TestDatabase
) -> None:
    """After a change of schema/: `python -m migrations new NAME`."""
    assert [str(each) for each in objects.compare(read(database), build(empty_database))] == []


_OPEN_TO_ALL = (
    "alter default privileges for role jewelshot_ledger grant execute on functions to public"
)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("alter table app.users add column nickname text", Kind.COLUMN),
        ("alter table app.users alter column created_at drop not null", Kind.COLUMN),
        ("alter table app.uploads drop constraint uploads_state", Kind.CONSTRAINT),
        ("drop index app.uploads_user", Kind.INDEX),
        ("create table app.extra (id integer primary key)", Kind.TABLE),
        ("create type app.mood as enum ('good')", Kind.TYPE),
        ("create view app.extra as select 1 as one", Kind.VIEW),
        ("alter table app.users no force row level security", Kind.ROW_SECURITY),
        ("drop policy users_own on app.users", Kind.POLICY),
        ("alter policy users_own on app.users using (false)", Kind.POLICY),
        ("drop trigger generations_guard on app.generations", Kind.TRIGGER),
        ("alter table app.generations disable trigger generations_guard", Kind.TRIGGER),
        ("alter function app.reserve set work_mem = '1MB'", Kind.FUNCTION),
        ("alter function app.reserve owner to postgres", Kind.OWNER),
        ("comment on function app.reserve is 'other'", Kind.COMMENT),
        ("grant execute on function app.reserve to jewelshot_api", Kind.GRANT),
        ("revoke select (id) on app.codes from jewelshot_admin", Kind.GRANT),
        ("grant usage on schema app to anon", Kind.GRANT),
        (_OPEN_TO_ALL, Kind.DEFAULT_GRANT),
        ("update app.signup_terms set credits = 11", Kind.SEED),
        ("delete from app.schedules where name = 'uploads.expire'", Kind.SEED),
    ],
)
def test_each_kind_of_difference_is_seen(
    database: TestDatabase, statement: str, kind: Kind
) -> None:
    before = read(database)
    database.rows(statement)
    assert kind in {each.kind for each in objects.compare(before, read(database))}


def test_names_of_not_null_and_the_order_of_columns_are_nobodys_choice(
    database: TestDatabase,
) -> None:
    before = read(database)
    database.rows(
        "alter table app.payment_days drop column compared_at,"
        " add column compared_at timestamptz constraint somebody not null default app.now()"
    )
    database.rows("alter table app.payment_days drop column day cascade")
    database.rows("alter table app.payment_days add column day date primary key")
    assert objects.compare(before, read(database)) == []


# --- the order of the files --------------------------------------------------------------------


def write_noun(folder: Path, name: str, head: str) -> None:
    (folder / f"{name}.sql").write_text(f"-- {name}\n{head}\n\nselect 1;\n")


def test_each_noun_comes_after_those_it_stands_on(tmp_path: Path) -> None:
    write_noun(tmp_path, "apple", "-- after: tree, base")
    write_noun(tmp_path, "tree", "-- after: base")
    write_noun(tmp_path, "base", "-- after:")
    assert [noun.name for noun in present.load(tmp_path)] == ["base", "tree", "apple"]
    assert len(present.load()) > 15


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("", "says once what it stands on"),
        ("-- after: base, nobody", "nobody: no such"),
        ("-- after: apple", "each stands on another"),
    ],
)
def test_a_head_that_says_nothing_useful_is_refused(tmp_path: Path, head: str, why: str) -> None:
    write_noun(tmp_path, "base", "-- after:")
    write_noun(tmp_path, "apple", head)
    with pytest.raises(MigrationError, match=why):
        present.load(tmp_path)


# --- drafts ------------------------------------------------------------------------------------

Edit = Callable[[str, str, str], None]


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    return Path(shutil.copytree(present.PRESENT, tmp_path / "schema"))


@pytest.fixture
def edit(schema: Path) -> Edit:
    def replace(noun: str, old: str, new: str) -> None:
        path = schema / f"{noun}.sql"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return replace


def drafted(database: TestDatabase, empty: TestDatabase, schema: Path) -> tuple[Draft, Objects]:
    wanted = build(empty, schema)
    old, new = sources_of(files.MIGRATIONS), sources_of(schema)
    return draft(read(database), wanted, old=old, new=new), wanted


def test_a_draft_leads_there_and_back(
    database: TestDatabase, empty_database: TestDatabase, schema: Path, edit: Edit, tmp_path: Path
) -> None:
    edit("credits", "if coalesce(p_amount, 0) <= 0 then", "if coalesce(p_amount, 0) < 1 then")
    edit("credits", "$$Errors: JS422 for", "$$It is positive. Errors: JS422 for")
    worker = "app.expire_credits(integer) to jewelshot_worker"
    edit("credits", worker, f"{worker}, jewelshot_admin")
    edit("uploads", "reset role;", _NEW_FUNCTION)
    edit("uploads", "  using (user_id =", "  using (held_at is null and user_id =")
    edit("audit", "before update on", "before update or delete on")
    text = (schema / "codes.sql").read_text()
    start = text.index("create function app.disable_codes")
    end = text.index("create function app.redeem_code")
    (schema / "codes.sql").write_text(
        (text[:start] + text[end:]).replace(
            "grant execute on function\n  app.create_codes(uuid, text, bigint, integer,"
            " timestamptz, integer, text, text, jsonb),\n  app.disable_codes(uuid, uuid)",
            "grant execute on function\n  app.create_codes(uuid, text, bigint, integer,"
            " timestamptz, integer, text, text, jsonb)",
        )
    )
    before = read(database)
    found, wanted = drafted(database, empty_database, schema)
    assert found.by_hand == []
    assert "-- " not in found.up.partition("create or replace function app.count_uploads")[0]

    folder = Path(shutil.copytree(files.MIGRATIONS, tmp_path / "migrations"))
    made = files.create("a change", folder, up=found.up, down=found.down)
    runner.up(database.migration_url, folder)
    assert [str(each) for each in objects.compare(read(database), wanted)] == []
    assert runner.down(database.migration_url, folder) == [made]
    assert [str(each) for each in objects.compare(read(database), before)] == []


_NEW_FUNCTION = """create function app.count_uploads(p_user_id uuid)
  returns bigint
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select count(*) from app.uploads where user_id = p_user_id
$$;
comment on function app.count_uploads is
$$How many photos a person has. Locks: none.$$;

reset role;
grant execute on function app.count_uploads(uuid) to jewelshot_worker;"""


def test_what_holds_rows_is_left_to_a_person(
    database: TestDatabase, empty_database: TestDatabase, schema: Path, edit: Edit
) -> None:
    edit("people", "  created_at timestamptz", "  nickname text,\n  created_at timestamptz")
    found, _ = drafted(database, empty_database, schema)
    assert found.by_hand == ["column app.users.nickname: missing in the migrations: text"]


def test_a_changed_signature_wants_a_second_name(
    database: TestDatabase, empty_database: TestDatabase, schema: Path, edit: Edit
) -> None:
    edit("credits", "require_positive(p_amount bigint)", "require_positive(p_credits bigint)")
    edit("credits", "if coalesce(p_amount, 0) <= 0 then", "if coalesce(p_credits, 0) <= 0 then")
    found, _ = drafted(database, empty_database, schema)
    (line,) = found.by_hand
    assert line.startswith("function app.require_positive(bigint): ")
    assert "second name" in line


def test_the_command_writes_what_is_missing(
    database: TestDatabase, schema: Path, edit: Edit, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(files.MIGRATIONS, tmp_path / "migrations"))

    def new(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "migrations", "--dir", str(folder), "new"),
                *("--schema", str(schema), *arguments),
            ],
            env={**os.environ, "TEST_DATABASE_URL": database.server.superuser_url},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    known = len(files.load(folder))
    assert new("nothing") == (0, "schema/ and migrations/ say the same: nothing to write\n")
    edit("credits", "if coalesce(p_amount, 0) <= 0 then", "if coalesce(p_amount, 0) < 1 then")
    assert new("other words")[0] == 0
    made = files.load(folder)[-1]
    assert made.name == "other_words"
    assert b"coalesce(p_amount, 0) < 1" in made.sql
    assert b"coalesce(p_amount, 0) <= 0" in made.down_sql()
    assert files.problems(folder) == []

    edit("people", "  created_at timestamptz", "  nickname text,\n  created_at timestamptz")
    code, said = new("more")
    assert (code, "column app.users.nickname" in said) == (1, True)
    assert len(files.load(folder)) == known + 1


def test_statements_are_cut_where_they_end() -> None:
    text = (
        "-- why; and how\nselect ';' as a, \"b;\" from t -- no; end\n;\n"
        "create function f() as $x$ begin; $$ ; $$ end; $x$;\n/* ; */ select 2"
    )
    assert list(split(text)) == [
        "select ';' as a, \"b;\" from t -- no; end",
        "create function f() as $x$ begin; $$ ; $$ end; $x$",
        "select 2",
    ]
