"""Auth, Storage, the mailbox and the controls under one base URL: the product's SUPABASE_URL.

Beside the wire protocol it has `/__mail` (what was sent), `/__control/faults` (misbehave) and
`POST /__control/rotate-key` (a new signing key; `?revoke=true` also drops the old ones).
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from litestar import Litestar, Router, get, post
from litestar.config.cors import CORSConfig
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, SkipValidation

from core.db import Database
from sandbox.kit.guard import require_loopback_url, require_sandbox_allowed
from sandbox.supabase.auth.limits import Limiter
from sandbox.supabase.auth.mails import HookSender
from sandbox.supabase.auth.router import auth_router
from sandbox.supabase.auth.service import Auth
from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.faults import Faults, faults_router
from sandbox.supabase.keystore import KeyStore
from sandbox.supabase.mailbox import Mailbox, mailbox_router
from sandbox.supabase.storage.access import Storage
from sandbox.supabase.storage.files import FileStore
from sandbox.supabase.storage.router import storage_handler

_CORS = CORSConfig(
    allow_origins=["*"],
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=["X-Supabase-Api-Version", "x-sb-error-code", "X-Total-Count", "Link"],
    max_age=3600,
)


@get("/__control/ready", sync_to_thread=False)
def ready() -> dict[str, str]:
    return {"status": "ok"}


@post("/__control/rotate-key", status_code=200, sync_to_thread=False)
def rotate_key(
    keys: NamedDependency[SkipValidation[KeyStore]], revoke: FromQuery[bool] = False
) -> dict[str, str]:
    return {"kid": keys.rotate(revoke_previous=revoke)}


def create_app(config: SupabaseConfig, *, mailbox: Mailbox | None = None) -> Litestar:
    """The stand-in as an ASGI application. Its lifespan opens the database pools; where no server
    runs it (`httpx.ASGITransport`), enter `app.lifespan()` yourself.

    Raises: SandboxRefusedError in production, or for a base URL that is not on this machine.
    """
    require_sandbox_allowed(os.environ)
    require_loopback_url(config.base_url)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    keys = KeyStore(config.data_dir, jwt_secret=config.jwt_secret)
    auth_db = Database(config.auth_database_url, pool_size=config.auth_pool_size, name="auth")
    storage_db = Database(
        config.storage_database_url, pool_size=config.storage_pool_size, name="storage"
    )
    client = httpx.AsyncClient(timeout=5)
    mails, faults = mailbox or Mailbox(), Faults()
    auth = Auth(
        config=config,
        db=auth_db,
        keys=keys,
        mailbox=mails,
        hook=HookSender(client, config) if config.send_email_hook_url else None,
        limiter=Limiter(
            enabled=config.rate_limits_enabled, emails_per_hour_max=config.emails_per_hour_max
        ),
    )
    storage = Storage(
        config=config, db=storage_db, keys=keys, files=FileStore(config.data_dir / "objects")
    )

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await auth_db.open()
        await storage_db.open()
        try:
            yield
        finally:
            await client.aclose()
            await storage_db.close()
            await auth_db.close()

    control = Router(
        path="/",
        route_handlers=[ready, rotate_key],
        dependencies={"keys": Provide(lambda: keys, sync_to_thread=False)},
    )
    return Litestar(
        route_handlers=[
            auth_router(auth),
            storage_handler(storage),
            mailbox_router(mails),
            faults_router(faults),
            control,
        ],
        middleware=[faults.middleware],
        lifespan=[lifespan],
        cors_config=_CORS,
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,
    )
