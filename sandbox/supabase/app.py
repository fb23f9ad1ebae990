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
from litestar.params import FromQuery

from core.db import Database
from sandbox.kit.guard import require_loopback_url, require_sandbox_allowed
from sandbox.kit.requests import AnyRequest
from sandbox.supabase.auth.limits import Limiter
from sandbox.supabase.auth.mails import HookSender
from sandbox.supabase.auth.router import AUTH_ROUTER
from sandbox.supabase.auth.service import Auth
from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.faults import FAULTS_ROUTER, Faults, FaultsMiddleware
from sandbox.supabase.keystore import KeyStore
from sandbox.supabase.mailbox import MAILBOX_ROUTER, Mailbox
from sandbox.supabase.storage.access import Storage
from sandbox.supabase.storage.files import FileStore
from sandbox.supabase.storage.router import serve_storage

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
def rotate_key(request: AnyRequest, revoke: FromQuery[bool] = False) -> dict[str, str]:
    keys: KeyStore = request.app.state.key_store
    return {"kid": keys.rotate(revoke_previous=revoke)}


def create_app(config: SupabaseConfig) -> Litestar:
    """The stand-in as an ASGI application. Its lifespan opens the database pools; where no server
    runs it (`httpx.ASGITransport`), enter `app.lifespan()` yourself.

    Raises: SandboxRefusedError in production, or for a base URL that is not on this machine.
    """
    app = Litestar(
        route_handlers=[
            AUTH_ROUTER,
            serve_storage,
            MAILBOX_ROUTER,
            FAULTS_ROUTER,
            Router(path="/", route_handlers=[ready, rotate_key]),
        ],
        middleware=[FaultsMiddleware],
        lifespan=[_running],
        cors_config=_CORS,
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,
    )
    configure(app, config)
    return app


def configure(app: Litestar, config: SupabaseConfig) -> None:
    """The project that `app` serves from its next start on, without users, buckets or mail.

    The routes are built once and read all of this from the application's state.
    """
    require_sandbox_allowed(os.environ)
    require_loopback_url(config.base_url)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    keys = KeyStore(config.data_dir, jwt_secret=config.jwt_secret)
    hooked = config.send_email_hook_url is not None
    app.state.key_store = keys
    app.state.mailbox = Mailbox()
    app.state.faults = Faults()
    app.state.auth = Auth(
        config=config,
        db=Database(config.auth_database_url, pool_size=config.auth_pool_size, name="auth"),
        keys=keys,
        mailbox=app.state.mailbox,
        hook=HookSender(httpx.AsyncClient(timeout=5), config) if hooked else None,
        limiter=Limiter(
            enabled=config.rate_limits_enabled, emails_per_hour_max=config.emails_per_hour_max
        ),
    )
    app.state.storage = Storage(
        config=config,
        db=Database(
            config.storage_database_url, pool_size=config.storage_pool_size, name="storage"
        ),
        keys=keys,
        files=FileStore(config.data_dir / "objects"),
    )


@asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    auth: Auth = app.state.auth
    storage: Storage = app.state.storage
    await auth.db.open()
    await storage.db.open()
    try:
        yield
    finally:
        if auth.hook is not None:
            await auth.hook.aclose()
        await storage.db.close()
        await auth.db.close()
