"""The application over real servers, with the stand-in of Supabase behind it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from core.settings import Settings
from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.mailbox import Mailbox
from tests.harness.applications import opened_supabase
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.router import HttpRouter
from tests.harness.settings import NOWHERE
from tests.harness.tokens import TokenIssuer

PASSWORD = "correct horse battery"


class AuthHarness(msgspec.Struct):
    """The API's client, the mailbox that its people read, and Auth as its owner calls it."""

    client: httpx.AsyncClient
    mailbox: Mailbox
    sandbox: Any
    database: TestDatabase
    owner: httpx.AsyncClient
    outside: HttpRouter

    async def arm_fault(self, **fault: Any) -> None:
        """Fields of sandbox.supabase.faults.Fault."""
        transport = httpx.ASGITransport(self.sandbox)
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as control:
            set_up = await control.post("/__control/faults", json=fault)
            assert set_up.is_success, set_up.text

    async def sign_up(self, email: str) -> None:
        response = await self.client.post(
            "/v1/auth/sign-up", json={"email": email, "password": PASSWORD}
        )
        assert response.status_code == 200, response.text

    def token_hash(self, email: str) -> str:
        return str(self.mailbox.latest(to=email).data["token_hash"])

    def code(self, email: str) -> str:
        return str(self.mailbox.latest(to=email).data["token"])

    async def join(self, email: str) -> dict[str, Any]:
        """Sign up and confirm; the session."""
        await self.sign_up(email)
        response = await self.client.post(
            "/v1/auth/confirm", json={"token_hash": self.token_hash(email), "type": "email"}
        )
        assert response.status_code == 200, response.text
        session: dict[str, Any] = response.json()["session"]
        return session


OpenAuth = Callable[..., "contextlib.AbstractAsyncContextManager[AuthHarness]"]


@pytest.fixture
def issuer(database: TestDatabase) -> TokenIssuer:
    return TokenIssuer(NOWHERE, database)


@pytest.fixture
def open_auth(
    database: TestDatabase, make_settings: Callable[..., Settings], tmp_path: Path
) -> OpenAuth:
    """Keyword arguments: fields of the sandbox's configuration; `settings`: of ours; `turnstile`:
    the application that answers in Cloudflare's place."""

    @contextlib.asynccontextmanager
    async def start(
        settings: dict[str, Any] | None = None, *, turnstile: Any = None, **sandbox: Any
    ) -> AsyncIterator[AuthHarness]:
        ours = make_settings(**(settings or {}))
        config = SupabaseConfig(
            base_url=ours.supabase_url,
            site_url="http://127.0.0.1:3000",
            redirect_allow_list=("http://127.0.0.1:8000/**",),
            data_dir=tmp_path / "supabase",
            auth_database_url=database.url("supabase_auth_admin"),
            storage_database_url=database.url("supabase_storage_admin"),
            publishable_key=ours.supabase_publishable_key.get_secret_value(),
            secret_key=ours.supabase_secret_key.get_secret_value(),
            password_cost_log2=4,
            auth_pool_size=2,
            storage_pool_size=1,
            **sandbox,
        )
        async with opened_supabase(config) as app:
            transport = HttpRouter()
            transport.connect(ours.supabase_url, app)
            if turnstile is not None:
                transport.connect(ours.turnstile_verify_url, turnstile)
            owner = httpx.AsyncClient(
                transport=transport,
                base_url=f"{ours.supabase_url}/auth/v1",
                headers={"apikey": config.secret_key},
            )
            async with api_client(ours, transport=transport) as client, owner:
                yield AuthHarness(client, app.state.mailbox, app, database, owner, transport)

    return start


@pytest.fixture
async def auth(open_auth: OpenAuth) -> AsyncIterator[AuthHarness]:
    async with open_auth() as started:
        yield started


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {session['access_token']}"}
