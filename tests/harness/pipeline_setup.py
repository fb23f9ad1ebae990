"""The pipeline in one process: applications, stand-ins and a worker's tools, wired together."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
from pydantic import SecretStr

from core.db import Database
from core.generations.providers import accounts
from core.pixels.pool import PixelPool
from core.settings import FalKey, Settings
from sandbox.fal.config import FalSandboxConfig
from sandbox.supabase.config import SupabaseConfig
from scripts.seed import ensure_buckets
from tests.harness.applications import opened_fal, opened_supabase
from tests.harness.database import TestDatabase
from tests.harness.http import opened_app
from tests.harness.pipeline import API_URL, FAL_URL, SUPABASE_URL, PipelineHarness
from tests.harness.router import HttpRouter
from tests.harness.tokens import JWKS_PATH, TokenIssuer
from tests.harness.worker import open_worker_context
from worker.context import WorkerContext

PUBLISHABLE = "sb_publishable_test"
SECRET = "sb_secret_test"


def fal_key(number: int, account: str = "main") -> FalKey:
    secret = SecretStr(f"key-{number}:secret-{number}")
    return FalKey(name=f"FAL_AI_KEY_{number}", secret=secret, account=account)


def pipeline_settings() -> dict[str, Any]:
    """What of the settings says where everything is."""
    return {
        "supabase_url": SUPABASE_URL,
        "supabase_publishable_key": PUBLISHABLE,
        "supabase_secret_key": SECRET,
        "public_base_url": API_URL,
        "fal_queue_url": FAL_URL,
        "fal_rest_url": FAL_URL,
        "fal_jwks_url": f"{FAL_URL}/.well-known/jwks.json",
        "fal_keys": (fal_key(1),),
        "provider_account_slots": 4,
        "rate_limits_enabled": False,
    }


def _supabase_config(database: TestDatabase, folder: Path) -> SupabaseConfig:
    return SupabaseConfig(
        base_url=SUPABASE_URL,
        site_url=API_URL,
        data_dir=folder / "supabase",
        auth_database_url=database.url("supabase_auth_admin"),
        storage_database_url=database.url("supabase_storage_admin"),
        publishable_key=PUBLISHABLE,
        secret_key=SECRET,
        password_cost_log2=4,
        upload_bytes_max=100_000_000,
        auth_pool_size=1,
        storage_pool_size=2,
    )


class _SupabaseWire(httpx.AsyncBaseTransport):
    """The stand-in, but for the keys of the tests' own tokens."""

    def __init__(self, sandbox: object, issuer: TokenIssuer) -> None:
        self._sandbox = httpx.ASGITransport(cast("Any", sandbox))
        self._keys = issuer.transport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wire = self._keys if request.url.path == JWKS_PATH else self._sandbox
        return await wire.handle_async_request(request)


def _fal_config(settings: Settings, router: HttpRouter, *, prerendered: bool) -> FalSandboxConfig:
    return FalSandboxConfig(
        accounts={key.secret.get_secret_value(): key.account for key in settings.fal_keys},
        account_limit=100,
        model_seconds=0,
        prerendered=prerendered,
        prerendered_side=256,
        webhook_schedule_seconds=(0.0,),
        transport=router,
    )


@contextlib.asynccontextmanager
async def set_up_pipeline(
    settings: Settings,
    database: TestDatabase,
    pixels: PixelPool,
    folder: Path,
    *,
    api: dict[str, Any] | None = None,
    prerendered: bool = True,
) -> AsyncIterator[PipelineHarness]:
    """`api` replaces settings for the API alone; `folder` keeps the objects of the storage."""
    router = HttpRouter()
    issuer = TokenIssuer(SUPABASE_URL, database)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(
            opened_supabase(_supabase_config(database, folder))
        )
        router.connect(SUPABASE_URL, _SupabaseWire(sandbox, issuer))
        provider = await stack.enter_async_context(
            opened_fal(_fal_config(settings, router, prerendered=prerendered))
        )
        router.connect(FAL_URL, provider)
        app = await stack.enter_async_context(
            opened_app(settings.model_copy(update=api or {}), transport=router)
        )
        router.connect(API_URL, app)
        to_api = httpx.ASGITransport(cast("Any", app), client=("203.0.113.7", 50_000))
        to_provider = httpx.ASGITransport(cast("Any", provider))
        clock = Database(database.superuser_url, pool_size=2, name="clock")
        await clock.open()
        stack.push_async_callback(clock.close)
        yield PipelineHarness(
            api=app,
            client=await stack.enter_async_context(
                httpx.AsyncClient(transport=to_api, base_url=API_URL)
            ),
            provider=provider,
            fal=await stack.enter_async_context(
                httpx.AsyncClient(transport=to_provider, base_url=FAL_URL)
            ),
            router=router,
            database=database,
            issuer=issuer,
            ctx=await stack.enter_async_context(_worker_context(settings, router, pixels)),
            clock=clock,
        )


@contextlib.asynccontextmanager
async def _worker_context(
    settings: Settings, router: httpx.AsyncBaseTransport, pixels: PixelPool
) -> AsyncIterator[WorkerContext]:
    """A worker's tools, its keys registered and its buckets made."""
    assert settings.worker_database_url is not None
    async with contextlib.AsyncExitStack() as stack:
        db = Database(settings.worker_database_url.get_secret_value(), pool_size=6, name="worker")
        await db.open()
        stack.push_async_callback(db.close)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=router))
        await ensure_buckets(settings, http)
        ctx = await stack.enter_async_context(
            open_worker_context(settings, db=db, http=http, pixels=pixels)
        )

        slots = settings.provider_account_slots
        await db.run(lambda conn: accounts.register_keys(conn, ctx.providers, slots=slots))
        yield ctx
        await ctx.wait_for_background(timeout_seconds=5)
