"""What Supabase's Data API could do, if the schema were ever exposed: nothing.

It becomes `anon`, `authenticated` or `service_role`. Should somebody even give those a role of
ours, what a caller could choose stays within bounds.
"""

import uuid
from typing import Any

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from migrations.runner.roles import API_ROLE
from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, refused, scoped, user_claims
from tests.migrations import catalogue

DATA_API = ("anon", "authenticated", "service_role", "authenticator")


@pytest.mark.parametrize("role", DATA_API)
def test_the_data_api_reaches_nothing_of_ours(database: TestDatabase, role: str) -> None:
    person = Ledger(database).user(5)
    conn = database.connection()
    names = [str(row["name"]) for row in catalogue.functions(database)]
    assert len(names) > 100
    for row in catalogue.functions(database):
        types = row["arguments"]
        assert isinstance(types, list)
        arguments = sql.SQL(", ").join(sql.SQL("null::" + str(each)) for each in types)
        call = sql.SQL("select app.{}({})").format(sql.Identifier(str(row["name"])), arguments)
        with refused("42501"), scoped(conn, role, user_claims(person)):
            conn.execute(call)
    for table in catalogue.tables(database):
        for verb in ("select from", "delete from", "truncate"):
            with refused("42501"), scoped(conn, role, user_claims(person)):
                conn.execute(sql.SQL("{} {}").format(sql.SQL(verb), sql.Identifier("app", table)))


def test_nobody_but_the_api_becomes_a_person(database: TestDatabase) -> None:
    members = database.rows(
        "select held.rolname as held, member.rolname as member from pg_auth_members"
        " join pg_roles as member on member.oid = pg_auth_members.member"
        " join pg_roles as held on held.oid = pg_auth_members.roleid"
        " where held.rolname in ('jewelshot_user', 'jewelshot_admin') and not member.rolsuper"
        " and member.rolname <> %s",
        [database.server.migration_role],
    )
    assert {row["member"] for row in members} == {"jewelshot_api"}
    for role in DATA_API:
        for held in ("jewelshot_user", "jewelshot_api", "jewelshot_admin", "jewelshot_worker"):
            row = database.row("select pg_has_role(%s, %s, 'member') as may", [role, held])
            assert row["may"] is False, (role, held)


WILD: list[tuple[str, Any]] = [
    ("upscale", {"factor": 1000, "steps": 1000000}),
    ("upscale", {"factor": 1000}),
    ("upscale", {"factor": "NaN"}),
    ("upscale", {"factor": 2, "steps": 1}),
    ("upscale", {"seed": 1.5}),
    ("packshot", {"size": 3001}),
    ("packshot", {"shadow": "long"}),
    ("packshot", {"aspect_ratio": ["1:1"]}),
    ("packshot", {"size": None}),
    ("scene", {"prompt": "x" * 1001}),
    ("cutout", {"seed": 1}),
    ("cutout", []),
    ("cutout", "{}"),
    ("cutout", None),
]


def test_parameters_and_priority_are_bounded_in_the_database(database: TestDatabase) -> None:
    ledger = Ledger(database)
    person = ledger.user(50)
    upload = ledger.upload(person)
    conn = database.connection(API_ROLE)
    start = "select app.start_generation(%s, %s, %s, %s, %s)"
    claims = user_claims(person)
    for operation, params in WILD:
        with refused("JS422") as refusal, scoped(conn, "jewelshot_user", claims):
            conn.execute(start, (uuid.uuid4(), operation, upload, Jsonb(params), 0))
        assert refusal.detail == {"field": "params", "reason": "params_do_not_fit"}, params
    with refused("JS422"), scoped(conn, "jewelshot_user", claims):
        conn.execute(start, (uuid.uuid4(), "cutout", upload, None, 0))
    for priority in (-5, 2, 32767, None):
        with refused("JS422") as refusal, scoped(conn, "jewelshot_user", claims):
            conn.execute(start, (uuid.uuid4(), "cutout", upload, Jsonb({}), priority))
        assert refusal.detail == {"field": "priority", "reason": "out_of_range"}
    assert ledger.balance(person) == (50, 0, 0)
    with scoped(conn, "jewelshot_user", claims):
        good = {"factor": 1.5, "seed": 7}
        conn.execute(start, (uuid.uuid4(), "upscale", upload, Jsonb(good), 1))
    assert ledger.balance(person) == (48, 2, 0)


def test_nobody_names_the_key_of_an_object(database: TestDatabase) -> None:
    ledger = Ledger(database)
    ada, bob = ledger.user(), ledger.user()
    upload = uuid.uuid4()
    conn = database.connection(API_ROLE)
    prepare = "select app.prepare_upload(%s, %s, %s, %s)"
    bounds = {"unfinished": 9, "photos": 9, "bytes": 10**9, "pixels_per_minute": None}
    wide = Jsonb({"free": bounds, "buyer": bounds})
    for named in (f"{bob}/{upload}/normal.jpg", "../x", "jpg/..", "", "JPG", "j pg", None):
        with refused("JS422"), scoped(conn, "jewelshot_user", user_claims(ada)):
            conn.execute(prepare, (upload, named, "x.jpg", wide))
    with scoped(conn, "jewelshot_user", user_claims(ada)):
        conn.execute(prepare, (upload, "jpg", f"{bob}/{upload}/normal.jpg", wide))
    row = database.row("select user_id, storage_key from app.uploads where id = %s", (upload,))
    assert row == {"user_id": ada, "storage_key": f"{ada}/{upload}/original.jpg"}


def test_others_things_stay_theirs(database: TestDatabase) -> None:
    """With A's claims and B's ids, each door of a person finds nothing."""
    ledger = Ledger(database)
    ada, bob = ledger.user(20), ledger.user(20)
    upload = ledger.upload(bob)
    generation = ledger.start(bob, upload)
    conn = database.connection(API_ROLE)
    attempts = {
        "select app.start_generation(gen_random_uuid(), 'cutout', %s, '{}')": upload,
        "select app.cancel_generation(%s)": generation,
        "select app.buy_late_image(%s, gen_random_uuid())": generation,
        "select app.delete_upload(%s)": upload,
    }
    for statement, id_ in attempts.items():
        with refused("JS404"), scoped(conn, "jewelshot_user", user_claims(ada)):
            conn.execute(statement.encode(), (id_,))
    with scoped(conn, "jewelshot_user", user_claims(ada)):
        row = conn.execute("select app.discard_upload(%s) as gone", (upload,)).fetchone()
        assert row == {"gone": False}
    assert (ledger.balance(ada), ledger.balance(bob)) == ((20, 0, 0), (19, 1, 0))
