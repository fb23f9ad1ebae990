"""The stand-in in the test's own process, and the unmodified official client talking to it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import psycopg
import pytest
from litestar import Litestar
from storage3.types import FileOptions
from supabase import AsyncClient, AsyncClientOptions, acreate_client
from supabase_auth.types import (
    EmailOtpType,
    SignInWithEmailAndPasswordCredentials,
    VerifyTokenHashParams,
)

from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.mailbox import Mailbox
from tests.harness.applications import opened_supabase
from tests.harness.database import TestDatabase

BASE_URL = "http://127.0.0.1:54321"
PUBLISHABLE = "sb_publishable_test"
SECRET = "sb_secret_test"
PASSWORD = "correct horse"


def credentials(email: str, password: str = PASSWORD) -> SignInWithEmailAndPasswordCredentials:
    return {"email": email, "password": password}


def by_hash(token_hash: str, kind: EmailOtpType = "email") -> VerifyTokenHashParams:
    return {"token_hash": token_hash, "type": kind}


def as_type(mime: str, **options: str) -> FileOptions:
    typed: dict[str, Any] = {"content-type": mime, **options}
    return cast("FileOptions", typed)


class Sandbox:
    """One running application and the ways to talk to it."""

    def __init__(self, app: Litestar, config: SupabaseConfig, mailbox: Mailbox) -> None:
        self.app = app
        self.config = config
        self.mailbox = mailbox
        self.client_ip = "127.0.0.1"

    def http(self, **headers: str) -> httpx.AsyncClient:
        """A plain client; keyword arguments are headers, `_` for `-`."""
        application: Any = self.app  # Litestar narrows the ASGI types
        transport = httpx.ASGITransport(application, client=(self.client_ip, 50_000))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=named)

    async def supabase(self, key: str | None = None, *, flow_type: str = "implicit") -> AsyncClient:
        options = AsyncClientOptions(
            auto_refresh_token=False,
            persist_session=False,
            flow_type=flow_type,  # type: ignore[arg-type]  # one of two literals
            httpx_client=self.http(),
        )
        return await acreate_client(BASE_URL, key or self.config.publishable_key, options)

    async def admin(self) -> AsyncClient:
        return await self.supabase(self.config.secret_key)

    async def signed_in(self, email: str) -> AsyncClient:
        """A confirmed user with a session of its own client."""
        admin = await self.admin()
        await admin.auth.admin.create_user(
            {"email": email, "password": PASSWORD, "email_confirm": True}
        )
        client = await self.supabase()
        await client.auth.sign_in_with_password(credentials(email))
        return client


@pytest.fixture
def sandbox_config(database: TestDatabase, tmp_path: Path) -> SupabaseConfig:
    return SupabaseConfig(
        base_url=BASE_URL,
        site_url="http://127.0.0.1:3000",
        data_dir=tmp_path / "supabase",
        auth_database_url=database.url("supabase_auth_admin"),
        storage_database_url=database.url("supabase_storage_admin"),
        publishable_key=PUBLISHABLE,
        secret_key=SECRET,
        password_cost_log2=4,
        auth_pool_size=2,
        storage_pool_size=2,
    )


Starter = Callable[..., "contextlib.AbstractAsyncContextManager[Sandbox]"]


@pytest.fixture
def start_sandbox(sandbox_config: SupabaseConfig) -> Starter:
    """Start a stand-in; keyword arguments replace fields of its configuration."""

    @contextlib.asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[Sandbox]:
        config = msgspec.structs.replace(sandbox_config, **changes)
        async with opened_supabase(config) as app:
            yield Sandbox(app, config, app.state.mailbox)

    return start


@pytest.fixture
async def sandbox(start_sandbox: Starter) -> AsyncIterator[Sandbox]:
    async with start_sandbox() as running:
        yield running


@pytest.fixture
def storage_sql(database: TestDatabase) -> Callable[[str], None]:
    """Run a statement as migrations do: policies, mostly."""

    def run(statement: str) -> None:
        with psycopg.connect(database.migration_url, autocommit=True) as conn:
            conn.execute(statement.encode())

    return run
