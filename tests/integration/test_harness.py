"""The fixtures keep what they promise; otherwise every other test proves less than it says."""

import socket
from collections.abc import Callable

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from core.db import Connection, Database, fetch_one
from core.settings import Settings
from sandbox.stack import LocalStack
from tests.harness.database import TestDatabase


def test_sockets_to_the_outside_are_off() -> None:
    with (
        socket.socket() as outside,
        pytest.raises((RuntimeError, UserWarning), match=r"socket\.connect"),
    ):
        outside.connect(("192.0.2.1", 80))


async def test_coroutine_tests_run(db_api: Database, db_worker: Database) -> None:
    async def who(conn: Connection) -> str:
        row = await fetch_one(conn, "select current_user as name")
        assert row is not None
        return str(row["name"])

    assert await db_api.run(who) == "jewelshot_api"
    assert await db_worker.run(who) == "jewelshot_worker"


@given(number=st.integers())
async def test_coroutine_tests_run_under_hypothesis(number: int) -> None:
    assert number - number == 0


@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_has_its_own_database(database: TestDatabase, attempt: int) -> None:
    database.rows("create table public.trace (attempt int)")
    database.rows("insert into public.trace values (%s)", [attempt])
    assert database.rows("select * from public.trace") == [{"attempt": attempt}]


@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_has_an_empty_valkey(redis_url: str, attempt: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("trace", attempt)


def test_migrations_run_as_no_superuser(database: TestDatabase) -> None:
    with psycopg.connect(database.migration_url) as conn:
        row = conn.execute("select current_setting('is_superuser')").fetchone()
    assert row == ("off",)


def test_settings_name_the_servers_of_the_test(
    settings: Settings, make_settings: Callable[..., Settings], database: TestDatabase
) -> None:
    assert settings.database_url.get_secret_value() == database.api_url
    assert make_settings(database_pool_size=3).database_pool_size == 3


@pytest.mark.drift
def test_drift_is_seen(database: TestDatabase) -> None:
    user_id = "00000000-0000-7000-8000-000000000001"
    database.rows("insert into app.users (id) values (%s)", [user_id])
    database.rows(
        "insert into app.credit_accounts (user_id, available) values (%s, 5)"
        " on conflict (user_id) do update set available = 5",
        [user_id],
    )
    assert {row["check_name"] for row in database.drift()} >= {"account_balance", "account_lots"}


@pytest.mark.slow
def test_own_stack_may_be_killed(own_stack: LocalStack) -> None:
    url = own_stack.environ()["DATABASE_URL"]
    own_stack.postgres.restart("immediate")
    with psycopg.connect(url) as conn:
        assert conn.execute("select current_user").fetchone() == ("jewelshot_api",)
    own_stack.valkey.kill()
    with (
        redis.Redis.from_url(own_stack.environ()["REDIS_URL"]) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()
    own_stack.valkey.start()
    with redis.Redis.from_url(own_stack.environ()["REDIS_URL"]) as client:
        assert client.ping()
