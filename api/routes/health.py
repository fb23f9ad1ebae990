"""/healthz (the process lives), /readyz (send it traffic?), /metrics (Prometheus)."""

import asyncio
import time
from typing import Any

import msgspec
import psycopg
import structlog
from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.identity import is_one_of
from api.metrics import StoredFigures
from api.openapi import METRICS, PUBLIC
from api.problems import raises
from api.resources import AppResources
from api.schemas.health import Alive, Check, Readiness, State
from core import health
from core.db import Database
from core.errors import BadCredentialsError

log = structlog.get_logger()

OUTBOX_LAG_SECONDS_MAX = 60
CHECK_SECONDS_MAX = 3


@get(
    "/healthz",
    operation_id="get_liveness",
    summary="Is the process alive",
    description="Asks nothing else: restart the process when this does not answer.",
    tags=["Health"],
    security=PUBLIC,
    responses=raises(public=True),
    opt={"rate_limit": False},
)
async def get_liveness() -> Alive:
    return Alive()


@get(
    "/readyz",
    operation_id="get_readiness",
    summary="Can it serve requests",
    description="Database and schema decide between up and down; Redis, workers, provider accounts"
    " and payments between ok and degraded: work is accepted while they are away and done later."
    " `payments` is there when they are set up, and tells what lags or differs: events that wait,"
    " orders in review, refunds that wait, days whose totals differ, webhooks that fell silent.",
    tags=["Health"],
    security=PUBLIC,
    responses={
        **raises(public=True),
        503: ResponseSpec(Readiness, description="Down", generate_examples=False),
    },
    opt={"rate_limit": False},
)
async def get_readiness(resources: AppResources) -> Response[Readiness]:
    database, shared = await asyncio.gather(
        _check_database(resources.db), _check_redis(resources.redis)
    )
    checks = {**database, "redis": shared}
    if resources.payments is not None:
        checks["payments"] = await _check_payments(resources.db)
    states = {check.status for check in checks.values()}
    status = next(state for state in (State.DOWN, State.DEGRADED, State.OK) if state in states)
    return Response(
        Readiness(status=status, checks=checks), status_code=503 if status is State.DOWN else 200
    )


async def _check_database(db: Database) -> dict[str, Check]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            found, version = await db.run(health.get_health)
    except (psycopg.Error, TimeoutError) as error:
        log.warning("readiness.database", error=type(error).__name__)
        return {"database": Check(State.DOWN, {"reason": "no_answer"})}
    milliseconds = round((time.perf_counter() - started) * 1000, 1)
    expected = health.shipped_schema_version()
    # Newer is fine: migrations run before the release of the code that needs them.
    is_behind = expected is not None and (version or "") < expected
    lag = round(found.outbox_lag_seconds, 1)
    return {
        "database": Check(State.OK, {"duration_ms": milliseconds}),
        "migrations": Check(
            State.DOWN if is_behind else State.OK, {"applied": version, "expected": expected}
        ),
        "workers": _degraded_unless(found.workers > 0, alive=found.workers),
        "provider_accounts": _degraded_unless(
            found.provider_accounts_healthy > 0,
            healthy=found.provider_accounts_healthy,
            known=found.provider_accounts,
        ),
        "outbox": _degraded_unless(
            lag < OUTBOX_LAG_SECONDS_MAX,
            lag_seconds=lag,
            queue_age_seconds=round(found.queue_age_seconds, 1),
            dead_letters_last_hour=found.dead_letters_last_hour,
        ),
    }


async def _check_payments(db: Database) -> Check:
    """Never down: what was paid for arrives all the same once somebody has looked."""
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            found = await db.run(health.get_payments_health)
    except (psycopg.Error, TimeoutError) as error:
        log.warning("readiness.payments", error=type(error).__name__)
        return Check(State.DEGRADED, {"reason": "no_answer"})
    return _degraded_unless(found.is_well, **msgspec.structs.asdict(found))


async def _check_redis(redis: Redis) -> Check:
    try:
        await redis.ping()
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("readiness.redis", error=type(error).__name__)
        return Check(State.DEGRADED, {"reason": "no_answer"})
    return Check(State.OK)


def _degraded_unless(condition: bool, **facts: Any) -> Check:
    return Check(State.OK if condition else State.DEGRADED, facts)


@get(
    "/metrics",
    operation_id="get_metrics",
    summary="Figures for Prometheus",
    description="With METRICS_TOKEN set, needs it as a bearer token.",
    tags=["Health"],
    media_type="text/plain",
    security=METRICS,
    responses=raises(BadCredentialsError, public=True),
    opt={"rate_limit": False},
)
async def get_metrics(request: Request[Any, Any, Any], resources: AppResources) -> Response[str]:
    settings = resources.settings
    if settings.metrics_token is not None:
        offered = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not is_one_of(offered, settings.metrics_token):
            raise BadCredentialsError(reason="metrics_token")
    text = generate_latest(resources.metrics.registry).decode()
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            stored = StoredFigures(await resources.db.run(health.list_samples))
            text += generate_latest(stored).decode()
    except (psycopg.Error, TimeoutError) as error:
        # The process's own figures are wanted most while the database is away.
        log.warning("metrics.database", error=type(error).__name__)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


router = Router("/", route_handlers=[get_liveness, get_readiness, get_metrics])
