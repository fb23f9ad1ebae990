"""Whoever writes for a person or an admin asks first who that is at this moment.

The functions are taken from the catalogue, so that a new one cannot forget it.
"""

import uuid
from typing import Any

import psycopg
import pytest
from psycopg import sql

from migrations.runner.roles import API_ROLE
from tests.harness.database import TestDatabase
from tests.harness.ledger import admin_claims, refused, scoped, user_claims
from tests.migrations import catalogue

pytestmark = pytest.mark.drift  # nothing here makes money

ASKS = {
    "jewelshot_user": ("app.require_person()",),
    "jewelshot_admin": ("app.require_admin()", "app.require_fresh_admin()"),
}
# What moves money, or lets somebody in, asks an admin for a second factor of today.
FRESH = {"adjust_credits", "admin_return", "confirm_admin_factor", "create_codes", "review_order"}

# Of themselves they change nothing: what they keep is the answer of another door.
_NO_DOORS = {"idempotency_begin", "idempotency_store"}


def doors(database: TestDatabase, role: str) -> list[dict[str, Any]]:
    """The functions that `role` may call and that may write."""
    volatile = {
        row["oid"]: row["prosrc"]
        for row in database.rows(
            "select oid::regprocedure::text as oid, prosrc from pg_proc"
            " where pronamespace = 'app'::regnamespace and provolatile = 'v'"
        )
    }
    return [
        {**row, "text": volatile[row["signature"]]}
        for row in catalogue.functions(database)
        if role in row["callers"]  # type: ignore[operator]  # a list
        and row["signature"] in volatile
        and row["is_definer"]
        and row["name"] not in _NO_DOORS
    ]


def knock(conn: psycopg.Connection[Any], door: dict[str, Any]) -> None:
    arguments = sql.SQL(", ").join(sql.SQL("null::" + each) for each in door["arguments"])
    conn.execute(sql.SQL("select app.{}({})").format(sql.Identifier(door["name"]), arguments))


@pytest.mark.parametrize("role", ASKS)
def test_every_door_asks_who_comes(database: TestDatabase, role: str) -> None:
    found = doors(database, role)
    assert len(found) >= 5
    careless = [
        door["name"] for door in found if not any(asked in door["text"] for asked in ASKS[role])
    ]
    assert careless == []


def test_money_asks_for_a_second_factor_of_today(database: TestDatabase) -> None:
    claims = admin_claims(database)
    found = {door["name"]: door for door in doors(database, "jewelshot_admin")}
    fresh = {name for name, door in found.items() if "require_fresh_admin()" in door["text"]}
    assert fresh == FRESH
    conn = database.connection(API_ROLE)
    old = [{"method": "totp", "timestamp": claims["amr"][0]["timestamp"] - 12 * 3600 - 1}]
    proofs: list[Any] = [
        None, [], old, "totp", [{"method": "password", "timestamp": claims["amr"][0]["timestamp"]}]
    ]  # fmt: skip
    for proof in proofs:
        for name in FRESH:
            stale = claims | {"amr": proof}
            with refused("JS403") as refusal, scoped(conn, "jewelshot_admin", stale):
                knock(conn, found[name])
            assert refusal.detail == {"reason": "second_factor_too_old"}


def test_a_new_door_is_seen(database: TestDatabase) -> None:
    database.rows(
        "create function app.give_away() returns void language sql security definer"
        " as 'update app.users set id = id'"
    )
    database.rows("grant execute on function app.give_away() to jewelshot_user")
    assert "give_away" in {door["name"] for door in doors(database, "jewelshot_user")}


# What becomes of a person or an admin at Auth, and how each door answers from then on.
LEFT: dict[str, tuple[str, str, str]] = {
    "signed out": ("delete from auth.sessions", "JS401", "session_not_found"),
    "session over": (
        "update auth.sessions set not_after = now() - interval '1 s'",
        "JS401",
        "session_not_found",
    ),
    "banned": (
        "update auth.users set banned_until = now() + interval '1 day'",
        "JS403",
        "user_banned",
    ),
    "deleted": ("delete from auth.users", "JS401", "session_not_found"),
    "deleted softly": (
        "update auth.users set deleted_at = now()",
        "JS401",
        "session_not_found",
    ),
}
DEMOTED = {
    "role away": (
        "update auth.users set raw_app_meta_data = '{}'",
        "JS403",
        "not_an_admin",
    ),
    "factor deleted": ("delete from auth.mfa_factors", "JS403", "mfa_required"),
    "factor of whoever": (
        "update app.admin_factors set confirmed_at = null, confirmed_by = null",
        "JS403",
        "factor_not_confirmed",
    ),
    "factor confirmed for another": (
        "update app.admin_factors set admin_id = gen_random_uuid()",
        "JS403",
        "factor_not_confirmed",
    ),
    "lowered": (
        "update auth.sessions set aal = 'aal1', factor_id = null",
        "JS403",
        "mfa_required",
    ),
}


@pytest.mark.parametrize("how", LEFT)
def test_a_person_who_left_passes_no_door(database: TestDatabase, how: str) -> None:
    person = uuid.uuid4()
    database.sign_in(person)
    statement, sqlstate, reason = LEFT[how]
    database.rows(statement)
    conn = database.connection(API_ROLE)
    for door in doors(database, "jewelshot_user"):
        with refused(sqlstate) as refusal, scoped(conn, "jewelshot_user", user_claims(person)):
            knock(conn, door)
        assert refusal.detail == {"reason": reason}, door["name"]


@pytest.mark.parametrize("how", LEFT | DEMOTED)
def test_an_admin_who_left_passes_no_door_and_sees_nothing(
    database: TestDatabase, how: str
) -> None:
    claims = admin_claims(database)
    database.rows("insert into app.users (id) values (gen_random_uuid())")
    conn = database.connection(API_ROLE)
    with scoped(conn, "jewelshot_admin", claims):
        assert len(conn.execute("select from app.users").fetchall()) == 1
    statement, sqlstate, reason = (LEFT | DEMOTED)[how]
    database.rows(statement)
    for door in doors(database, "jewelshot_admin"):
        with refused(sqlstate) as refusal, scoped(conn, "jewelshot_admin", claims):
            knock(conn, door)
        assert refusal.detail == {"reason": reason}, door["name"]
    with scoped(conn, "jewelshot_admin", claims):
        assert conn.execute("select from app.users").fetchall() == []


def test_a_session_of_somebody_else_is_none(database: TestDatabase) -> None:
    ada, eve = uuid.uuid4(), uuid.uuid4()
    database.sign_in(ada)
    database.sign_in(eve, aal="aal2", role="admin")
    conn = database.connection(API_ROLE)
    borrowed = user_claims(ada) | {"session_id": str(eve)}
    lifted = borrowed | {"aal": "aal2", "app_metadata": {"role": "admin"}}
    for role, claims in (("jewelshot_user", borrowed), ("jewelshot_admin", lifted)):
        for door in doors(database, role):
            with refused("JS401"), scoped(conn, role, claims):
                knock(conn, door)


def test_nobody_passes(database: TestDatabase) -> None:
    conn = database.connection(API_ROLE)
    for role, sqlstate in (("jewelshot_user", "JS401"), ("jewelshot_admin", "JS403")):
        for door in doors(database, role):
            with refused(sqlstate), scoped(conn, role, {}):
                knock(conn, door)


def test_a_token_does_not_break_the_glass(database: TestDatabase) -> None:
    """The key's claims carry a role that no token of a person does."""
    person = uuid.uuid4()
    database.sign_in(person, aal="aal2")
    forged = user_claims(person) | {
        "break_glass": True,
        "aal": "aal2",
        "app_metadata": {"role": "admin"},
    }
    conn = database.connection(API_ROLE)
    for door in doors(database, "jewelshot_admin"):
        with refused("JS403"), scoped(conn, "jewelshot_admin", forged):
            knock(conn, door)
