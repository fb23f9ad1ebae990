"""Nobody may call what nobody calls: each grant on a function has a caller with that role.

A caller is a statement of the product (schema/calls), a policy, a default, or a function that
runs with the role's rights.
"""

import re

import pytest

from scripts.sql_calls import CALLS, parse, version
from tests.harness.database import TestDatabase
from tests.migrations import catalogue
from tests.migrations.grants import ROLES

pytestmark = pytest.mark.drift  # nothing here makes money

OURS = [role for role in ROLES if role.startswith("jewelshot_")]

_TEXTS = """
select p.proname as name, p.prosrc as text, p.prosecdef as is_definer, o.rolname as owner
from pg_proc as p join pg_roles as o on o.oid = p.proowner
where p.pronamespace = 'app'::regnamespace
"""

_EXPRESSIONS = """
select coalesce(qual, '') || ' ' || coalesce(with_check, '') as text, unnest(roles)::text as role
from pg_policies where schemaname in ('app', 'storage')
union all
select pg_get_expr(adbin, adrelid), unnest(%s::text[])
from pg_attrdef join pg_class on pg_class.oid = adrelid where relnamespace = 'app'::regnamespace
"""


def called_in(text: str) -> set[str]:
    return set(re.findall(r"\bapp\.(\w+)\s*\(", text))


def idle_grants(database: TestDatabase) -> set[str]:
    """`function role` for each grant that nothing uses."""
    calls = "\n".join(call.text for call in parse((CALLS / f"{version()}.sql").read_text()))
    granted = {
        (str(row["name"]), role)
        for row in catalogue.functions(database)
        for role in row["callers"]  # type: ignore[attr-defined]  # a list
        if role in OURS
    }
    used = {
        (name, role) for name in called_in(calls) for role in OURS if role != "jewelshot_ledger"
    }
    for row in database.rows(_EXPRESSIONS, [OURS]):
        used |= {(name, row["role"]) for name in called_in(row["text"])}
    for row in database.rows(_TEXTS):
        # A trigger or an invoker's function runs with the rights of whoever gets there.
        roles = [row["owner"]] if row["is_definer"] else OURS
        used |= {(name, role) for name in called_in(row["text"]) - {row["name"]} for role in roles}
    return {f"{name} {role}" for name, role in granted - used}


def test_each_grant_is_used(database: TestDatabase) -> None:
    assert idle_grants(database) == set()


def test_an_idle_grant_is_seen(database: TestDatabase) -> None:
    database.rows("grant execute on function app.grant_credits to jewelshot_worker")
    assert idle_grants(database) == {"grant_credits jewelshot_worker"}


def test_the_worker_and_the_api_mint_nothing(database: TestDatabase) -> None:
    """The ways in and out of money are the functions of causes, which ask for the cause."""
    callers = {
        str(row["name"]): set(row["callers"])  # type: ignore[call-overload]  # a list
        for row in catalogue.functions(database)
    }
    for name in ("grant_credits", "reverse_credits", "claw_back", "reserve", "confirm", "refund"):
        assert callers[name] == set(), name
