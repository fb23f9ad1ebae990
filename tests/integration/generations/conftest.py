"""A world for each test: its own database, provider and storage. See `world`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import redis.asyncio
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from api.app import create_app
from core.changes import ChangePublisher
from core.db import Connection, Database
from core.generations.fal import FalClient
from core.outbox import TaskQueue
from core.pixels.pool import PixelPool
from core.settings import FalKey, Settings
from core.storage.supabase import SupabaseStorage
from core.work import WorkerContext
from scripts.sandbox.fal.app import create_app as create_fal
from scripts.sandbox.fal.config import FalSandboxConfig
from scripts.sandbox.supabase.app import create_app as create_supabase
from scripts.sandbox.supabase.config import SupabaseConfig
from scripts.seed import ensure_buckets
from tests.integration.generations.wires import Switchboard
from tests.integration.generations.world import API_URL, FAL_URL, SUPABASE_URL, Person, World
from tests.support.database import TestDatabase
from tests.support.tokens import JWKS_PATH, TokenIssuer

PUBLISHABLE = "sb_publishable_test"
SECRET = "sb_secret_test"

OpenWorld = Callable[..., "contextlib.AbstractAsyncContextManager[World]"]


def fal_key(number: int, account: str = "main") -> FalKey:
    secret = SecretStr(f"key-{number}:secret-{number}")
    return FalKey(name=f"FAL_AI_KEY_{number}", secret=secret, account=account)


@pytest.fixture(scope="session")
def pixels() -> Iterator[PixelPool]:
    """One process for all tests: starting it is the slow part."""
    pool = PixelPool(1)
    yield pool
    asyncio.run(pool.close())


def supabase_config(database: TestDatabase, folder: Path) -> SupabaseConfig:
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


def fal_settings() -> dict[str, Any]:
    return {
        "supabase_url": SUPABASE_URL,
        "supabase_publishable_key": PUBLISHABLE,
        "supabase_secret_key": SECRET,
        "public_base_url": API_URL,
        "fal_queue_url": FAL_URL,
        "fal_rest_url": FAL_URL,
        "fal_jwks_url": f"{FAL_URL}/.well-known/jwks.json",
        "fal_keys": (fal_key(1),),
        "fal_account_slots": 4,
        "rate_limits_enabled": False,
    }


@pytest.fixture
def open_world(
    database: TestDatabase,
    make_settings: Callable[..., Settings],
    pixels: PixelPool,
    tmp_path: Path,
) -> OpenWorld:
    """Keyword arguments are settings; `api` replaces some of them for the API alone."""

    @contextlib.asynccontextmanager
    async def open_it(
        *, api: dict[str, Any] | None = None, prerendered: bool = True, **settings: Any
    ) -> AsyncIterator[World]:
        ours = make_settings(**(fal_settings() | settings))
        wires = Switchboard()
        issuer = TokenIssuer(SUPABASE_URL)
        async with contextlib.AsyncExitStack() as stack:
            sandbox = create_supabase(supabase_config(database, tmp_path))
            await stack.enter_async_context(sandbox.lifespan())
            wires.connect(SUPABASE_URL, _SupabaseWire(sandbox, issuer))
            fal = create_fal(
                FalSandboxConfig(
                    accounts={key.secret.get_secret_value(): key.account for key in ours.fal_keys},
                    account_limit=100,
                    model_seconds=0,
                    prerendered=prerendered,
                    webhook_schedule_seconds=(0.0,),
                    transport=wires,
                )
            )
            stack.push_async_callback(fal.state.engine.aclose)
            wires.connect(FAL_URL, fal)
            app = create_app(ours.model_copy(update=api or {}), transport=wires)
            await stack.enter_async_context(app.lifespan())
            wires.connect(API_URL, app)
            wire = httpx.ASGITransport(cast("Any", app), client=("203.0.113.7", 50_000))
            client = await stack.enter_async_context(
                httpx.AsyncClient(transport=wire, base_url=API_URL)
            )
            control = await stack.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", fal)), base_url=FAL_URL)
            )
            ctx = await stack.enter_async_context(worker_context(ours, wires, pixels))
            clock = Database(database.superuser_url, pool_size=2, name="clock")
            await clock.open()
            stack.push_async_callback(clock.close)
            world = World(
                api=app,
                client=client,
                provider=fal,
                fal=control,
                wires=wires,
                database=database,
                issuer=issuer,
                ctx=ctx,
                clock=clock,
            )
            yield world
            if not world.may_bury:
                assert world.dead_letters() == []

    return open_it


@contextlib.asynccontextmanager
async def worker_context(
    settings: Settings, wires: httpx.AsyncBaseTransport, pixels: PixelPool
) -> AsyncIterator[WorkerContext]:
    """A worker's tools, its keys registered and its buckets made."""
    assert settings.worker_database_url is not None
    async with contextlib.AsyncExitStack() as stack:
        db = Database(settings.worker_database_url.get_secret_value(), pool_size=6, name="worker")
        await db.open()
        stack.push_async_callback(db.close)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=wires))
        await ensure_buckets(settings, http)
        connection = redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value())
        stack.push_async_callback(connection.aclose)
        queue = TaskQueue(settings)
        stack.push_async_callback(queue.close)
        ctx = WorkerContext(
            settings=settings,
            db=db,
            queue=queue,
            changes=ChangePublisher(settings, connection),
            http=http,
            fal=FalClient(settings, http),
            storage=SupabaseStorage(settings, http),
            pixels=pixels,
        )

        async def register(conn: Connection) -> None:
            await conn.execute(
                "select app.sync_provider_keys(%s, %s)",
                (Jsonb(ctx.fal.keys_document()), settings.fal_account_slots),
            )

        await db.run(register)
        yield ctx
        await ctx.wait_beside(timeout_seconds=5)


@pytest.fixture
async def world(open_world: OpenWorld) -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


@pytest.fixture
async def ada(world: World) -> Person:
    return await world.person()


@pytest.fixture
async def bob(world: World) -> Person:
    return await world.person()
