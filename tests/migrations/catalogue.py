"""What the database's own catalogue says about grants, policies and functions."""

from tests.harness.database import TestDatabase
from tests.migrations.grants import ROLES

_RELATIONS = "c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')"

# By column, because a grant on a table is one on each of its columns; shortened where it is all.
_COLUMN_GRANTS = f"""
select c.relname as table_name, r.role, v.verb,
  array_agg(a.attname::text order by a.attname)
    filter (where has_column_privilege(r.role, c.oid, a.attnum, v.verb)) as granted,
  count(*) as columns
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
cross join unnest(%s::text[]) as r (role)
cross join unnest(array['select', 'insert', 'update', 'references']) as v (verb)
where {_RELATIONS}
group by 1, 2, 3
"""

_TABLE_GRANTS = f"""
select c.relname as table_name, r.role, v.verb
from pg_class as c
cross join unnest(%s::text[]) as r (role)
cross join unnest(array['delete', 'truncate', 'trigger']) as v (verb)
where {_RELATIONS} and has_table_privilege(r.role, c.oid, v.verb)
"""

_FUNCTIONS = """
select p.oid::regprocedure::text as signature, p.proname::text as name, o.rolname as owner,
  p.prosecdef as is_definer, p.prorettype = 'trigger'::regtype as is_trigger,
  coalesce(array_to_string(p.proconfig, ' '), '') as config,
  array(
    select role from unnest(%s::text[]) as role
    where role <> o.rolname and has_function_privilege(role, p.oid, 'execute') order by role
  ) as callers,
  array(select format_type(t, null) from unnest(p.proargtypes) as t) as arguments
from pg_proc as p
join pg_roles as o on o.oid = p.proowner
where p.pronamespace = 'app'::regnamespace
order by 1
"""


def table_grants(database: TestDatabase) -> set[str]:
    """As grants.table_grants(), but as it is."""
    roles = list(ROLES)
    found = {
        f"{row['table_name']} {row['role']} {row['verb']}"
        for row in database.rows(_TABLE_GRANTS, [roles])
    }
    for row in database.rows(_COLUMN_GRANTS, [roles]):
        granted = row["granted"]
        if granted:
            columns = "" if len(granted) == row["columns"] else f"({' '.join(granted)})"
            found.add(f"{row['table_name']} {row['role']} {row['verb']}{columns}")
    return found


def functions(database: TestDatabase) -> list[dict[str, object]]:
    return database.rows(_FUNCTIONS, [list(ROLES)])


def function_grants(found: list[dict[str, object]]) -> set[str]:
    """As grants.function_grants(), but as it is."""
    grants = set()
    for row in found:
        callers = row["callers"]
        assert isinstance(callers, list)
        grants |= {f"{row['name']} {role}" for role in callers or ["-"]}
    return grants


def tables(database: TestDatabase) -> list[str]:
    return [
        row["relname"]
        for row in database.rows(
            "select relname from pg_class where relnamespace = 'app'::regnamespace"
            " and relkind in ('r', 'p') order by 1"
        )
    ]


def unprotected_tables(database: TestDatabase) -> list[str]:
    """Tables on which row level security is off, or does not bind the owner."""
    return [
        row["relname"]
        for row in database.rows(
            "select relname from pg_class where relnamespace = 'app'::regnamespace"
            " and relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity)"
            " order by 1"
        )
    ]
