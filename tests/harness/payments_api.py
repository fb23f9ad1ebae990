"""Payments over HTTP: the harness of tests/harness/payments.py with the API in front of it."""

import contextlib
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from litestar import Litestar
from pydantic import SecretStr

from core.pixels.pool import PixelPool
from core.settings import Settings
from sandbox.stripe.in_process import InProcessTransport
from tests.harness.database import TestDatabase
from tests.harness.http import client_of, opened_app
from tests.harness.payments import STRIPE_URL, WEBHOOK_SECRET, PaymentsHarness, set_up_payments
from tests.harness.router import HttpRouter
from tests.harness.settings import NOWHERE
from tests.harness.tokens import TokenIssuer

Json = dict[str, Any]
STRIPE_ORIGIN = f"{STRIPE_URL}:80"
WEBHOOK_PATH = "/v1/webhooks/stripe"
ADMIN: Json = {"app_metadata": {"role": "admin"}, "aal": "aal2"}


def signature(
    body: bytes, secret: SecretStr | str = WEBHOOK_SECRET, *, age_seconds: int = 0
) -> str:
    """As Stripe makes it. https://docs.stripe.com/webhooks#verify-manually"""
    key = secret if isinstance(secret, str) else secret.get_secret_value()
    at = int(time.time()) - age_seconds
    signed = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"


def new_event(type_: str = "customer.created", **changes: Any) -> Json:
    return {
        "id": f"evt_{uuid.uuid4().hex}",
        "object": "event",
        "type": type_,
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": {"id": f"cus_{uuid.uuid4().hex}", "object": "customer"}},
        **changes,
    }


class Buyer:
    """Somebody who is signed in."""

    def __init__(self, client: httpx.AsyncClient, user_id: uuid.UUID, token: str) -> None:
        self.client = client
        self.id = user_id
        self.headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str, *, prefer: str | None = None, **params: Any) -> httpx.Response:
        headers = self.headers | ({"Prefer": prefer} if prefer else {})
        return await self.client.get(path, params=params, headers=headers)

    async def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        prefer: str | None = None,
    ) -> httpx.Response:
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        headers |= {"Prefer": prefer} if prefer else {}
        return await self.client.post(path, json=body, headers=headers)

    async def read(self, path: str, **params: Any) -> Any:
        answer = await self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def checkout(self, pack: str = "credits_50", *, key: str | None = None) -> Json:
        answer = await self.post("/v1/checkout", {"pack": pack}, key=key)
        assert answer.status_code in {200, 201}, answer.text
        found: Json = answer.json()
        return found


class PaymentsApiHarness:
    """Nothing runs by itself: a test pays, delivers events and runs tasks when it wants to."""

    def __init__(
        self,
        *,
        payments: PaymentsHarness,
        app: Litestar,
        client: httpx.AsyncClient,
        issuer: TokenIssuer,
        router: HttpRouter,
        settings: Settings,
    ) -> None:
        self.payments = payments
        self.app = app
        self.client = client
        self.issuer = issuer
        self.router = router
        self.settings = settings

    @property
    def database(self) -> TestDatabase:
        return self.payments.database

    def buyer(self, client: httpx.AsyncClient | None = None) -> Buyer:
        user_id = self.payments.buyer().id
        return Buyer(client or self.client, user_id, self.issuer.token(user_id))

    def admin(self) -> Buyer:
        admin_id = uuid.uuid4()
        return Buyer(self.client, admin_id, self.issuer.token(admin_id, **ADMIN))

    @contextlib.asynccontextmanager
    async def other_api(self, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        """Another process of the API beside this one, with other settings."""
        settings = self.settings.model_copy(update=changes)
        async with _opened_api(settings, self.router) as (_, client):
            yield client

    # --- at Stripe ---------------------------------------------------------------------------

    def session_of(self, order_id: str) -> str:
        row = self.database.row("select session_id from app.orders where id = %s", (order_id,))
        return str(row["session_id"])

    async def pay(self, order_id: str, **how: Any) -> None:
        await self.payments.control(f"sessions/{self.session_of(order_id)}/pay", how)

    async def expire(self, order_id: str) -> None:
        await self.payments.control(f"sessions/{self.session_of(order_id)}/expire")

    async def events_of(self, order_id: str, type_: str) -> list[Json]:
        return [
            event
            for event in await self.payments.events(type_)
            if event["data"]["object"].get("client_reference_id") == order_id
        ]

    async def read_after_sync(self, buyer: Buyer, order_id: str) -> Json:
        """The landing page asks, a worker syncs, the page asks again; without the pause."""
        self.database.clock.advance(seconds=1)
        await buyer.read(f"/v1/checkout/{order_id}")
        await self.payments.run_tasks()
        found: Json = await buyer.read(f"/v1/payments/{order_id}")
        return found

    # --- at our side -------------------------------------------------------------------------

    async def deliver(
        self,
        event: Mapping[str, Any] | bytes,
        *,
        client: httpx.AsyncClient | None = None,
        header: str | None = None,
        secret: SecretStr | str = WEBHOOK_SECRET,
    ) -> httpx.Response:
        """Signed as Stripe signs, or with `header`; an empty one is left out."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        signed = signature(body, secret) if header is None else header
        headers = {b"Content-Type": b"application/json; charset=utf-8"}
        headers |= {b"Stripe-Signature": signed.encode()} if signed else {}
        return await (client or self.client).post(WEBHOOK_PATH, content=body, headers=headers)

    async def bought(self, buyer: Buyer, pack: str = "credits_50") -> Json:
        """A paid order whose credits have arrived."""
        order = await buyer.checkout(pack)
        await self.pay(order["id"])
        found = await self.read_after_sync(buyer, order["id"])
        assert found["state"] == "paid", found
        return found

    def balance(self, buyer: Buyer) -> tuple[int, int, int]:
        row = self.database.row(
            "select available, reserved, debt from app.credit_accounts where user_id = %s",
            (buyer.id,),
        )
        return row["available"], row["reserved"], row["debt"]


@contextlib.asynccontextmanager
async def _opened_api(
    settings: Settings, router: HttpRouter
) -> AsyncIterator[tuple[Litestar, httpx.AsyncClient]]:
    async with opened_app(settings, transport=router) as app, client_of(app) as client:
        yield app, client


@contextlib.asynccontextmanager
async def set_up_payments_api(
    settings: Settings, database: TestDatabase
) -> AsyncIterator[PaymentsApiHarness]:
    issuer = TokenIssuer(NOWHERE, database)
    router = HttpRouter()
    router.connect(NOWHERE, issuer.transport())
    async with set_up_payments(settings, database, PixelPool(1)) as payments:
        router.connect(STRIPE_ORIGIN, InProcessTransport(payments.sandbox))
        async with _opened_api(settings, router) as (app, client):
            yield PaymentsApiHarness(
                payments=payments,
                app=app,
                client=client,
                issuer=issuer,
                router=router,
                settings=settings,
            )
