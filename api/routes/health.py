"""/healthz (the process runs), /readyz (send it traffic?), /metrics (Prometheus)."""

import asyncio
import time
from typing import Any

import psycopg
import structlog
from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from redis.exceptions import RedisError, ResponseError

from api.identity import is_one_of
from api.metrics import StoredFigures
from api.openapi import METRICS, PUBLIC
from api.problems import raises
from api.resources import AppResources, Resources
from api.schemas.health import Alive, Check, Readiness, State, Warned
from core import health
from core.db import Connection
from core.identity.errors import AccessReason, BadCredentialsError
from core.noun import Check as NounCheck
from core.nouns import NOUNS
from core.words.say import say

log = structlog.get_logger()

CHECK_SECONDS_MAX = 3


@get(
    "/healthz",
    operation_id="get_liveness",
    summary="Is the process alive",
    description="Checks nothing else: restart the process when this does not answer.",
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
    " and payments between ok and degraded: without them work is accepted and done later."
    " `payments` is present when they are set up, and shows what lags or differs: events that wait,"
    " orders in review, returns that wait, days whose totals differ, webhooks that stopped."
    " `warnings` name what is set up unsafely and changes no status.",
    tags=["Health"],
    security=PUBLIC,
    responses={
        **raises(public=True),
        503: ResponseSpec(Readiness, description="Down", generate_examples=False),
    },
    opt={"rate_limit": False},
)
async def get_readiness(resources: AppResources) -> Response[Readiness]:
    (database, warnings), shared, autoconfirms = await asyncio.gather(
        _check_database(resources),
        _check_redis(resources),
        resources.auth_settings.find_autoconfirm(),
    )
    if autoconfirms:
        warnings.append(_warned(health.Unsafe.MAILER_AUTOCONFIRM))
    if resources.clients.unnamed_proxy is not None:
        warnings.append(_warned(health.Unsafe.UNNAMED_PROXY))
    checks = {**database, "redis": shared}
    states = {check.status for check in checks.values()}
    status = next(state for state in (State.DOWN, State.DEGRADED, State.OK) if state in states)
    return Response(
        Readiness(status=status, checks=checks, warnings=warnings),
        status_code=503 if status is State.DOWN else 200,
    )


async def _check_database(resources: Resources) -> tuple[dict[str, Check], list[Warned]]:
    """The database itself, its schema, the checks of every noun, and what is set up unsafely."""

    async def work(conn: Connection) -> tuple[str | None, list[NounCheck], list[health.Unsafe]]:
        version = await health.get_schema_version(conn)
        if _is_behind(version):
            return version, [], []
        checks = await health.list_checks(conn, NOUNS, resources.settings)
        return version, checks, await health.list_warnings(conn)

    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            version, found, warnings = await resources.db.run(work)
    except (psycopg.Error, TimeoutError) as error:
        log.warning("readiness.database", error=type(error).__name__)
        return {"database": Check(State.DOWN, {"reason": "no_answer"})}, []
    milliseconds = round((time.perf_counter() - started) * 1000, 1)
    schema = {"applied": version, "expected": health.shipped_schema_version()}
    checks = {
        "database": Check(State.OK, {"duration_ms": milliseconds}),
        "migrations": Check(State.DOWN if _is_behind(version) else State.OK, schema),
        **{
            check.name: Check(State.OK if check.is_well else State.DEGRADED, check.facts)
            for check in found
        },
    }
    return checks, [_warned(name) for name in warnings]


def _warned(name: health.Unsafe) -> Warned:
    return Warned(name, say(f"readiness.{name}"))


def _is_behind(version: str | None) -> bool:
    """Newer is fine: migrations run before the release of the code that needs them."""
    expected = health.shipped_schema_version()
    return expected is not None and (version or "") < expected


async def _check_redis(resources: Resources) -> Check:
    """A server that is full, or a replica, answers a ping and takes no wake-up."""
    try:
        await resources.redis.set(f"{resources.settings.redis_prefix}:readiness", 1, ex=60)
    except ResponseError as error:
        log.warning("readiness.redis", error=type(error).__name__)
        return Check(State.DEGRADED, {"reason": "takes_no_writes"})
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("readiness.redis", error=type(error).__name__)
        return Check(State.DEGRADED, {"reason": "no_answer"})
    return Check(State.OK)


@get(
    "/metrics",
    operation_id="get_metrics",
    summary="Figures for Prometheus",
    description="Needs METRICS_TOKEN as a bearer token. In production it is shut without one.",
    tags=["Health"],
    media_type="text/plain",
    security=METRICS,
    responses=raises(BadCredentialsError, public=True),
    opt={"rate_limit": False},
)
async def get_metrics(request: Request[Any, Any, Any], resources: AppResources) -> Response[str]:
    settings = resources.settings
    if settings.metrics_token is not None or settings.is_production:
        offered = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not is_one_of(offered, settings.metrics_token):
            raise BadCredentialsError(reason=AccessReason.METRICS_TOKEN)
    text = generate_latest(resources.metrics.registry).decode()
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            stored = StoredFigures(
                await resources.db.run(lambda conn: health.list_samples(conn, NOUNS))
            )
            text += generate_latest(stored).decode()
    except (psycopg.Error, TimeoutError) as error:
        # The process's own figures matter most while the database is unavailable.
        log.warning("metrics.database", error=type(error).__name__)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


router = Router("/", route_handlers=[get_liveness, get_readiness, get_metrics])
