"""Alive, ready, and the figures."""

import time
from collections.abc import Callable

import psycopg
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql

from core.settings import Settings
from sandbox.stack import LocalStack
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.settings import NOWHERE
from tests.integration.api_frame.conftest import AuthHarness, OpenAuth


def _add_worker_and_account(database: TestDatabase) -> None:
    database.rows(
        "insert into app.worker_heartbeats (worker_id, host, pid)"
        " values (gen_random_uuid(), 'here', 1)"
    )
    database.rows(
        "with account as ("
        " insert into app.provider_accounts (name, slots) values ('default', 2) returning id)"
        " insert into app.provider_keys (fingerprint, account_id, name)"
        " select 'one', id, 'FAL_AI_KEY_1' from account"
    )


async def test_degraded_until_somebody_works(settings: Settings, database: TestDatabase) -> None:
    async with api_client(settings) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        checks = ready.json()["checks"]
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert checks["database"]["status"] == "ok"
        assert checks["migrations"]["status"] == "ok"
        assert checks["redis"]["status"] == "ok"
        assert checks["workers"]["status"] == "degraded"
        assert checks["provider_accounts"]["status"] == "degraded"
        _add_worker_and_account(database)
        ready = await client.get("/readyz")
        assert ready.json()["status"] == "ok", ready.text


async def test_redis_away_degrades_and_slows_nobody(
    make_settings: Callable[..., Settings], database: TestDatabase
) -> None:
    _add_worker_and_account(database)
    async with api_client(make_settings(redis_url="redis://127.0.0.1:9/0")) as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["checks"]["redis"]["status"] == "degraded"
        await client.get("/problems")
        started = time.perf_counter()
        answers = [await client.get("/problems") for _ in range(20)]
        assert time.perf_counter() - started < 2
        assert all("ratelimit" in answer.headers for answer in answers)


async def test_a_redis_that_takes_no_writes_is_not_ok(
    database: TestDatabase,  # noqa: ARG001  the settings' database
    own_stack: LocalStack,
    make_settings: Callable[..., Settings],
) -> None:
    """It answers a ping, and no wake-up arrives."""
    url = own_stack.environ()["REDIS_URL"]
    async with api_client(make_settings(redis_url=url)) as client:
        assert (await client.get("/readyz")).json()["checks"]["redis"]["status"] == "ok"
        with redis.Redis.from_url(url) as server:
            server.config_set("maxmemory-policy", "noeviction")
            server.config_set("maxmemory", "1")
            full = (await client.get("/readyz")).json()["checks"]["redis"]
            server.config_set("maxmemory", "0")
        assert full == {"status": "degraded", "facts": {"reason": "takes_no_writes"}}
        assert (await client.get("/readyz")).json()["checks"]["redis"]["status"] == "ok"


async def test_readiness_warns_where_anybody_makes_temporary_objects(
    settings: Settings, database: TestDatabase
) -> None:
    async with api_client(settings) as client:
        calm = (await client.get("/readyz")).json()
        assert "temporary_objects" not in {warned["name"] for warned in calm["warnings"]}
        with psycopg.connect(database.superuser_url, autocommit=True) as conn:
            name = sql.Identifier(conn.info.dbname)
            conn.execute(sql.SQL("grant temporary on database {} to public").format(name))
        warned = (await client.get("/readyz")).json()
    assert warned["status"] == calm["status"]
    told = {each["name"]: each["detail"] for each in warned["warnings"]}
    assert "revoke temporary" in told["temporary_objects"]


async def test_metrics_are_shut_in_production_without_a_token(
    make_settings: Callable[..., Settings],
) -> None:
    production = make_settings(
        app_env="production",
        supabase_url="https://project.supabase.co",
        public_base_url="https://api.example.com",
        fal_queue_url="https://queue.fal.run",
        fal_rest_url="https://rest.fal.ai",
        fal_jwks_url="https://rest.fal.ai/.well-known/jwks.json",
        fal_output_hosts=("fal.media",),
        trusted_proxies=("none",),
        internal_api_secret=None,
        person_key_pepper="kV3q9Zt1Yw7rLm2XhB6cDf8sPa4gJe0u",
    )
    async with api_client(production) as client:
        for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer None"}):
            assert (await client.get("/metrics", headers=headers)).status_code == 401


async def test_a_schema_behind_the_code_is_down(settings: Settings, database: TestDatabase) -> None:
    database.rows(
        "delete from supabase_migrations.schema_migrations where version ="
        " (select max(version) from supabase_migrations.schema_migrations)"
    )
    async with api_client(settings) as client:
        ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["migrations"]["status"]) == (503, "down")


async def test_without_a_database_it_is_down_but_alive(
    own_stack: LocalStack, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(database_url=own_stack.environ()["DATABASE_URL"])
    async with api_client(settings) as client:
        assert (await client.get("/readyz")).status_code == 200
        own_stack.postgres.stop()
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "down")
        metrics = await client.get("/metrics")
        assert metrics.status_code == 200
        assert "jewelshot_http_requests_total" in metrics.text
        own_stack.postgres.start()
        assert (await client.get("/readyz")).status_code == 200


async def test_metrics_are_prometheus_text(settings: Settings, database: TestDatabase) -> None:
    _add_worker_and_account(database)
    database.rows(
        "insert into app.metric_counters (name, labels, value)"
        " values ('jewelshot_provider_errors_total', %s, 3)",
        ('{"account": "with \\"quotes\\""}',),
    )
    async with api_client(settings) as client:
        await client.get("/nowhere/at/all")
        await client.request("PURGE-1", "/healthz")
        text = (await client.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    requests = families["jewelshot_http_requests"].samples
    labels = [sample.labels for sample in requests]
    assert {"method": "GET", "route": "(none)", "status": "404"} in labels
    assert "OTHER" in {label["method"] for label in labels if "method" in label}
    assert families["jewelshot_outbox_lag_seconds"].samples[0].value >= 0
    assert families["jewelshot_workers"].samples[0].value == 1
    errors = families["jewelshot_provider_errors"].samples[0]
    assert (errors.labels, errors.value) == ({"account": 'with "quotes"'}, 3)


@pytest.mark.parametrize(
    ("header", "status"),
    [({}, 401), ({"authorization": "Bearer no"}, 401), ({"authorization": "Bearer m-token"}, 200)],
)
async def test_metrics_may_need_a_token(
    header: dict[str, str], status: int, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(metrics_token="m-token", supabase_url=NOWHERE)
    async with api_client(settings) as client:
        assert (await client.get("/metrics", headers=header)).status_code == status


async def test_addresses_that_nobody_confirms_are_warned_of(open_auth: OpenAuth) -> None:
    async with open_auth(autoconfirm=True) as auth:
        (warned,) = await autoconfirm_warnings(auth)
        assert "free credits" in warned["detail"]
    async with open_auth() as auth:
        assert await autoconfirm_warnings(auth) == []


async def autoconfirm_warnings(auth: AuthHarness) -> list[dict[str, str]]:
    warnings = (await auth.client.get("/readyz")).json()["warnings"]
    return [warned for warned in warnings if warned["name"] == "mailer_autoconfirm"]


async def test_a_day_whose_free_credits_are_given_is_alarmed(
    settings: Settings, database: TestDatabase
) -> None:
    async with api_client(settings) as client:
        check = (await client.get("/readyz")).json()["checks"]["free_credits"]
        assert check["status"] == "ok"
        database.rows("update app.signup_terms set grants_per_day = 0")
        check = (await client.get("/readyz")).json()["checks"]["free_credits"]
        assert (check["status"], check["facts"]["limit_per_day"]) == ("degraded", 0)
        figures = (await client.get("/metrics")).text
    assert "signup_grants_per_day_max 0.0" in figures
