"""Times are UTC, whatever zone the database or a role was given."""

import datetime as dt

import psycopg
import pytest
from psycopg import sql

from core.db import Connection, Database, Scope, fetch_one, user_scope
from tests.harness.database import TestDatabase
from tests.integration.api_frame.conftest import OpenAuth, bearer


@pytest.fixture
def far_away(database: TestDatabase) -> TestDatabase:
    with psycopg.connect(database.superuser_url, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        for role in ("jewelshot_api", "jewelshot_worker"):
            conn.execute(
                sql.SQL("alter role {} in database {} set timezone = 'Pacific/Auckland'").format(
                    sql.Identifier(role), name
                )
            )
    return database


@pytest.mark.parametrize("scope", [None, user_scope({})], ids=["unscoped", "scoped"])
@pytest.mark.parametrize("snapshot", [False, True])
async def test_each_transaction_is_in_utc(
    far_away: TestDatabase, scope: Scope | None, *, snapshot: bool
) -> None:
    db = Database(far_away.api_url, pool_size=1, name="zone")
    await db.open()

    async def work(conn: Connection) -> tuple[str, dt.datetime]:
        row = await fetch_one(conn, "select current_setting('TimeZone') as zone, now()")
        assert row is not None
        return row["zone"], row["now"]

    try:
        zone, now = await db.run(work, scope=scope, snapshot=snapshot)
    finally:
        await db.close()
    assert zone == "UTC"
    assert now.utcoffset() == dt.timedelta(0)


async def test_times_on_the_wire_end_in_z(far_away: TestDatabase, open_auth: OpenAuth) -> None:
    assert far_away
    async with open_auth() as auth:
        me = await auth.client.get("/v1/me", headers=bearer(await auth.join("ada@example.com")))
    times = {name: value for name, value in me.json().items() if name.endswith("_at")}
    assert times
    assert all(value.endswith("Z") for value in times.values()), times
