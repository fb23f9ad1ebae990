"""Every table by role by verb, every function by role: asked of the catalogue, then tried.

A new table, function or grant fails here until tests/migrations/grants says what is meant.
"""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.harness.database import TestDatabase
from tests.migrations import catalogue, grants, rows

pytestmark = pytest.mark.drift  # nothing here makes money, and some of it makes rows by force

USER = "00000000-0000-7000-8000-00000000000a"
OTHER = "00000000-0000-7000-8000-00000000000b"

_ADMIN = (
    f'{{"sub": "{USER}", "session_id": "{USER}", "aal": "aal2",'
    ' "app_metadata": {"role": "admin"}}'
)

# (how it signs in, what it acts as, claims); None acts as itself: a forgotten scope.
ACTORS: dict[str, tuple[str, str | None, str]] = {
    "nobody": ("api", "jewelshot_user", "{}"),
    "jewelshot_user": ("api", "jewelshot_user", f'{{"role": "authenticated", "sub": "{USER}"}}'),
    "jewelshot_api": ("api", None, ""),
    "jewelshot_admin": (
        "api",
        "jewelshot_admin",
        _ADMIN,
    ),
    "jewelshot_worker": ("worker", None, ""),
}


@contextlib.contextmanager
def acting(database: TestDatabase, actor: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A connection in one transaction, which is rolled back, scoped the way core.db does it."""
    login, role, claims = ACTORS[actor]
    url = database.api_url if login == "api" else database.worker_url
    with psycopg.connect(url, row_factory=dict_row) as conn:
        if role is not None:
            conn.execute(
                "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
                (role, claims),
            )
        yield conn
        conn.rollback()


def refused(conn: psycopg.Connection[Any], statement: sql.Composed) -> bool:
    """Whether the statement is not permitted; other errors mean that permission was there."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        return "permission denied" in (error.diag.message_primary or "")
    except psycopg.Error:
        return False
    return False


def test_grants_on_tables_are_those_declared(database: TestDatabase) -> None:
    assert catalogue.table_grants(database) == grants.table_grants()


def test_a_new_grant_is_seen(database: TestDatabase) -> None:
    database.rows("grant update (debt) on app.credit_accounts to jewelshot_user")
    extra = catalogue.table_grants(database) - grants.table_grants()
    assert extra == {"credit_accounts jewelshot_user update(debt)"}


def test_grants_on_functions_are_those_declared(database: TestDatabase) -> None:
    found = catalogue.functions(database)
    names = [row["name"] for row in found]
    assert sorted(set(map(str, names))) == sorted(map(str, names)), "an overload hides grants"
    assert catalogue.function_grants(found) == grants.function_grants()


def test_functions_run_as_declared(database: TestDatabase) -> None:
    found = catalogue.functions(database)
    definers = {row["name"]: row["owner"] for row in found if row["is_definer"]}
    owner = database.server.migration_role
    assert definers == {
        **{name: "jewelshot_ledger" for name, _ in grants.lines(grants.DEFINER_LEDGER)},
        **{name: owner for name, _ in grants.lines(grants.DEFINER_OWNER)},
    }


# In these every name is written in full, so that they need no path: a SET clause would keep the
# planner from inlining them.
_CLOCK = {"now": "select pg_catalog.now()", "clock_now": "select pg_catalog.clock_timestamp()"}


def test_no_function_looks_for_names_where_others_may_put_them(database: TestDatabase) -> None:
    """An empty path would let a type in pg_temp stand in for a built-in one."""
    careless = [
        row["signature"]
        for row in catalogue.functions(database)
        if row["name"] not in _CLOCK and "search_path=pg_catalog, pg_temp" not in str(row["config"])
    ]
    assert careless == []


@pytest.mark.parametrize("actor", ACTORS)
def test_nobody_makes_temporary_objects(database: TestDatabase, actor: str) -> None:
    """The second wall: what cannot be made in pg_temp stands in for nothing."""
    with acting(database, actor) as conn:
        assert refused(conn, sql.SQL("create temporary table users (id integer)").format())
        assert refused(conn, sql.SQL("create domain pg_temp.text as pg_catalog.int4").format())


def test_time_is_the_databases_own(database: TestDatabase) -> None:
    """What is shipped reads no setting, so that nobody who can set one moves time."""
    found = database.rows(
        "select proname, trim(prosrc, e' \\n') as text, proconfig, provolatile, prosecdef,"
        " lanname from pg_proc join pg_language as l on l.oid = prolang"
        " where pronamespace = 'app'::regnamespace and proname = any (%s) order by proname",
        [list(_CLOCK)],
    )
    assert {row["proname"]: row["text"] for row in found} == _CLOCK
    assert [(row["provolatile"], row["proconfig"], row["prosecdef"], row["lanname"])
            for row in found] == [("v", None, False, "sql"), ("s", None, False, "sql")]  # fmt: skip


def test_time_is_inlined(database: TestDatabase) -> None:
    """A call costs what pg_catalog's costs: the plan names no function of ours."""
    with acting(database, "jewelshot_worker") as conn:
        plan = conn.execute(
            "explain (verbose, costs off) select from app.outbox"
            " where due_at <= app.now() and lease_until < app.clock_now()"
        ).fetchall()
    text = str(plan)
    assert "now()" in text
    assert "app.now" not in text
    assert "app.clock_now" not in text


def test_no_function_is_open_to_everybody(database: TestDatabase) -> None:
    """A function without an ACL is one that PUBLIC may execute."""
    opened = (
        "select oid::regprocedure::text as name from pg_proc"
        " where pronamespace = 'app'::regnamespace and (proacl is null or exists ("
        "   select from aclexplode(proacl) where grantee = 0))"
    )
    assert database.rows(opened) == []
    database.rows("create function app.bad() returns integer language sql as 'select 1'")
    assert [row["name"] for row in database.rows(opened)] == ["app.bad()"]


def test_every_function_says_what_it_does(database: TestDatabase) -> None:
    silent = database.rows(
        "select oid::regprocedure::text as name from pg_proc"
        " where pronamespace = 'app'::regnamespace and obj_description(oid, 'pg_proc') is null"
    )
    assert silent == []


def test_nobody_is_given_sequences_or_the_schema(database: TestDatabase) -> None:
    found = database.rows(
        "select c.relname, role from pg_class as c cross join unnest(%s::text[]) as role"
        " where c.relnamespace = 'app'::regnamespace and c.relkind = 'S'"
        " and has_sequence_privilege(role, c.oid, 'usage, select, update')",
        [list(grants.ROLES)],
    )
    assert found == []
    makers = database.rows(
        "select role from unnest(%s::text[]) as role where has_schema_privilege(role, 'app',"
        " 'create') or has_schema_privilege(role, 'supabase_migrations', 'create, usage')",
        [list(grants.ROLES)],
    )
    assert makers == []


def test_our_roles_can_do_nothing_else(database: TestDatabase) -> None:
    powers = database.rows(
        "select rolname from pg_roles where rolname like 'jewelshot\\_%%' and rolname <> %s"
        " and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication"
        " or rolinherit)",
        [database.server.migration_role],
    )
    assert powers == []
    members: dict[str, set[str]] = {name: set() for name in grants.MEMBERSHIPS}
    for row in database.rows(
        "select member.rolname as member, held.rolname as held from pg_auth_members"
        " join pg_roles as member on member.oid = pg_auth_members.member"
        " join pg_roles as held on held.oid = pg_auth_members.roleid"
    ):
        if row["member"] in members:
            members[row["member"]].add(row["held"])
    assert members == grants.MEMBERSHIPS


def test_row_level_security_is_on_and_forced_everywhere(database: TestDatabase) -> None:
    assert catalogue.unprotected_tables(database) == []


def test_a_new_table_without_protection_is_seen(database: TestDatabase) -> None:
    database.rows("create table app.surprise (id uuid primary key, user_id uuid)")
    database.rows("grant select on app.surprise to jewelshot_user")
    assert catalogue.unprotected_tables(database) == ["surprise"]
    assert catalogue.table_grants(database) - grants.table_grants() == {
        "surprise jewelshot_user select"
    }
    database.rows("alter table app.surprise enable row level security")
    assert catalogue.unprotected_tables(database) == ["surprise"], "not forced on its owner"


def test_every_grant_has_a_policy_and_every_policy_a_grant(database: TestDatabase) -> None:
    policies = database.rows(
        "select tablename, lower(cmd) as cmd, unnest(roles)::text as role from pg_policies"
        " where schemaname = 'app'"
    )
    verbs = ("select", "insert", "update", "delete")
    covered = {
        (row["tablename"], row["role"], verb)
        for row in policies
        for verb in (verbs if row["cmd"] == "all" else (row["cmd"],))
    }
    granted = {
        (table, role, verb.partition("(")[0])
        for table, role, verb in (line.split(" ", 2) for line in catalogue.table_grants(database))
    }
    assert granted - covered == set(), "granted, but no policy lets a row through"
    named = {(table, role) for table, role, _ in covered}
    assert named - {(table, role) for table, role, _ in granted} == set(), "a policy for nobody"


def test_policies_of_users_ask_who_they_are(database: TestDatabase) -> None:
    found = database.rows(
        "select policyname, tablename, unnest(roles)::text as role, qual from pg_policies"
        " where schemaname = 'app'"
    )
    for row in found:
        if row["role"] == "jewelshot_admin" and row["tablename"] not in grants.PUBLIC_TABLES:
            assert "app.is_admin()" in row["qual"], row["policyname"]
        if row["role"] in {"anon", "authenticated", "public", "jewelshot_user", "jewelshot_api"}:
            own = "app.current_user_id()" in row["qual"]
            assert own or row["tablename"] in grants.PUBLIC_TABLES, row["policyname"]


@pytest.mark.parametrize("actor", ACTORS)
def test_each_verb_on_each_table_is_tried(database: TestDatabase, actor: str) -> None:
    role = ACTORS[actor][1] or actor
    declared = grants.table_grants()
    wrong = []
    with acting(database, actor) as conn:
        for table in catalogue.tables(database):
            key = database.row(
                "select attname, attgenerated <> '' or attidentity <> '' as is_generated"
                " from pg_attribute where attrelid = %s::regclass and attnum = 1",
                [f"app.{table}"],
            )
            name, column = sql.Identifier("app", table), sql.Identifier(key["attname"])
            attempts = {
                "select": sql.SQL("select {} from {}").format(column, name),
                "insert": sql.SQL("insert into {} default values").format(name),
                "update": sql.SQL("update {} set {} = default").format(name, column),
                "delete": sql.SQL("delete from {} where false").format(name),
                "truncate": sql.SQL("truncate {}").format(name),
            }
            for verb, statement in attempts.items():
                # An update of some columns only is refused for the first one, the key.
                may = f"{table} {role} {verb}" in declared or (
                    verb == "select"
                    and any(line.startswith(f"{table} {role} select(") for line in declared)
                )
                if refused(conn, statement) is may:
                    wrong.append(f"{actor} {'cannot' if may else 'can'} {verb} {table}")
    assert wrong == []


@pytest.mark.parametrize("actor", ACTORS)
def test_each_function_that_is_not_granted_is_tried(database: TestDatabase, actor: str) -> None:
    role = ACTORS[actor][1] or actor
    wrong = []
    with acting(database, actor) as conn:
        for row in catalogue.functions(database):
            callers, types = row["callers"], row["arguments"]
            assert isinstance(callers, list)
            assert isinstance(types, list)
            if row["is_trigger"] or role in callers:
                continue
            arguments = sql.SQL(", ").join(sql.SQL("null::" + each) for each in types)
            call = sql.SQL("select app.{}({})").format(sql.Identifier(str(row["name"])), arguments)
            if not refused(conn, call):
                wrong.append(f"{actor} can call {row['signature']}")
    assert wrong == []


@pytest.mark.parametrize("actor", ACTORS)
def test_nobody_becomes_more(database: TestDatabase, actor: str) -> None:
    """`set role` looks at who signed in; the API may only choose between its two."""
    login = "jewelshot_api" if ACTORS[actor][0] == "api" else "jewelshot_worker"
    everyone = {*grants.ROLES, "supabase_auth_admin", database.server.migration_role}
    with acting(database, actor) as conn:
        for role in everyone - grants.MEMBERSHIPS[login] - {login}:
            assert refused(conn, sql.SQL("set role {}").format(sql.Identifier(role))), role


def test_rows_of_others_stay_unseen(database: TestDatabase) -> None:
    """With one row of two users in each table: a user sees one, nobody none, an admin both."""
    filled = rows.fill(database, [USER, OTHER])
    database.sign_in(uuid.UUID(USER), aal="aal2", role="admin")
    readable = {
        table
        for table, role, verbs in grants.lines(grants.TABLES)
        if role == "jewelshot_user" and verbs.startswith("select")
    }
    assert readable - filled == grants.PUBLIC_TABLES, "a table whose rows have no owner"
    for table in sorted(filled):
        seen = {actor: _count(database, actor, table) for actor in ACTORS}
        declared = {
            actor
            for actor in ACTORS
            if any(
                line.startswith(f"{table} {ACTORS[actor][1] or actor} select")
                for line in grants.table_grants()
            )
        }
        expected = {
            actor: {"jewelshot_user": 1, "nobody": 0}.get(actor, 2) if actor in declared else None
            for actor in ACTORS
        }
        assert seen == expected, table


def test_an_admin_without_second_factor_sees_nothing(database: TestDatabase) -> None:
    filled = rows.fill(database, [USER, OTHER])
    database.sign_in(uuid.UUID(USER), role="admin")
    claims = _ADMIN.replace("aal2", "aal1")
    with acting(database, "jewelshot_admin") as conn:
        conn.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        for table in sorted(filled):
            count = sql.SQL("select count(*) from {}").format(sql.Identifier("app", table))
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege), conn.transaction():
                assert conn.execute(count).fetchone() == {"count": 0}, table


def _count(database: TestDatabase, actor: str, table: str) -> int | None:
    """How many rows `actor` sees; None where it may not look."""
    column = database.row(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1",
        [f"app.{table}"],
    )["attname"]
    query = sql.SQL("select count({}) from {}").format(
        sql.Identifier(column), sql.Identifier("app", table)
    )
    with acting(database, actor) as conn:
        try:
            row = conn.execute(query).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return None
    assert row is not None
    return int(row["count"])
