"""A payments for tests: real PostgreSQL, the Stripe stand-in, and a worker's hands."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
from litestar import Litestar
from pydantic import SecretStr

from core.db import Connection, Database, Scope, user_scope
from core.ids import new_id
from core.payments import checkout, queries, returns, service
from core.payments.checkout import Checkout
from core.payments.context import Buyer, CheckoutContext
from core.payments.deadline import CLICK_SECONDS, Deadline
from core.payments.stripe import events
from core.payments.stripe.client import StripeClient
from core.payments.stripe.types import received_event
from core.payments.stripe.wire import LOOK, call
from core.payments.sync import sync_order
from core.payments.types import Order, Return, Synced
from core.pixels.pool import PixelPool
from core.settings import Settings
from sandbox.stripe.config import StripeSandboxConfig
from sandbox.stripe.in_process import InProcessTransport
from scripts.stripe_setup import set_up
from tests.harness.applications import opened_stripe
from tests.harness.database import TestDatabase
from tests.harness.ledger import user_claims
from tests.harness.router import HttpRouter
from tests.harness.worker import open_worker_context
from worker import runner
from worker.context import WorkerContext

STRIPE_URL = "http://stripe.test"
STRIPE_KEY = SecretStr("sk_test_shop")
WEBHOOK_SECRET = SecretStr("whsec_shop")


def payments_settings() -> dict[str, Any]:
    return {
        "stripe_secret_key": STRIPE_KEY,
        "stripe_webhook_secrets": (WEBHOOK_SECRET,),
        "stripe_api_url": STRIPE_URL,
    }


class DirectBuyer:
    """Somebody with an account, who buys as the API lets her buy."""

    def __init__(self, payments: "PaymentsHarness", user_id: uuid.UUID) -> None:
        self.payments = payments
        self.id = user_id

    @property
    def scope(self) -> Scope:
        return user_scope(user_claims(self.id))

    @property
    def buyer(self) -> Buyer:
        return Buyer(user_id=self.id, email="ada@example.com", scope=self.scope)

    async def order(self, pack: str = "credits_50") -> Order:
        """An order with an open session."""

        async def work(conn: Connection) -> Checkout:
            order_id = await checkout.start_order(conn, new_id(), pack)
            return await checkout.go_on(conn, order_id)

        started = await self.payments.api_db.run(work, scope=self.scope)
        return await checkout.open_session(self.payments.context, self.buyer, started)

    async def go_on(self, order_id: uuid.UUID) -> Order:
        """The same request again, under the same key."""
        started = await self.payments.api_db.run(
            lambda conn: checkout.go_on(conn, order_id), scope=self.scope
        )
        return await checkout.open_session(self.payments.context, self.buyer, started)

    async def buy(self, pack: str = "credits_50", **how: Any) -> Order:
        """A paid order whose credits have arrived, or are reviewed."""
        order = await self.order(pack)
        await self.payments.pay(order, **how)
        await self.payments.sync(order)
        return self.payments.find(order)

    async def retry(self, order: Order) -> Order:
        return await checkout.retry(self.payments.context, self.buyer, order.id)

    async def give_back(
        self, order: Order, credits_: int | None = None, *, return_id: uuid.UUID | None = None
    ) -> Return:
        async def work(conn: Connection) -> Return:
            return await returns.request_return(
                conn, return_id or new_id(), order.id, credits_=credits_, reason=None
            )

        return await self.payments.api_db.run(work, scope=self.scope)

    async def request_sync(self, order: Order) -> bool:
        """What the landing page asks for; whether a worker is to ask Stripe now."""
        await self.payments.api_db.run(
            lambda conn: service.request_sync(conn, order.id), scope=self.scope
        )
        wanted = self.payments.database.rows(
            "select from app.outbox where job = 'payment.sync' and dedupe_key = %s",
            (str(order.id),),
        )
        return wanted != []

    def balance(self) -> tuple[int, int, int]:
        row = self.payments.database.row(
            "select available, reserved, debt from app.credit_accounts where user_id = %s",
            (self.id,),
        )
        return row["available"], row["reserved"], row["debt"]

    def spend(self, amount: int) -> None:
        """Credits that are gone for good."""
        subject_id = uuid.uuid4()
        self.payments.database.rows(
            "select app.reserve(%s, %s, 'late_image', %s)", (self.id, amount, subject_id)
        )
        self.payments.database.rows(
            "select app.confirm(%s, 'late_image', %s)", (self.id, subject_id)
        )


class PaymentsHarness:
    """`transport` is the wire to the stand-in; a test may put its own in front of it."""

    def __init__(
        self,
        *,
        database: TestDatabase,
        api_db: Database,
        ctx: WorkerContext,
        provider: StripeClient,
        stripe: httpx.AsyncClient,
        sandbox: Litestar,
    ) -> None:
        self.database = database
        self.api_db = api_db
        self.ctx = ctx
        self.provider = provider
        self.stripe = stripe
        self.sandbox = sandbox

    @property
    def context(self) -> CheckoutContext:
        return CheckoutContext(
            self.api_db, self.provider, self.ctx.settings.landing_url, Deadline(CLICK_SECONDS)
        )

    def buyer(self, credits_: int = 0) -> DirectBuyer:
        user_id = uuid.uuid4()
        self.database.sign_in(user_id)
        self.database.rows("insert into app.users (id) values (%s)", (user_id,))
        self.database.rows("insert into app.credit_accounts (user_id) values (%s)", (user_id,))
        if credits_:
            self.database.rows(
                "select app.grant_credits(%s, %s, 'gift', %s)",
                (user_id, credits_, f"test:{user_id}"),
            )
        return DirectBuyer(self, user_id)

    # --- what Stripe's side does -------------------------------------------------------------

    async def control(self, path: str, body: Any = None, method: str = "POST") -> dict[str, Any]:
        answer = await self.stripe.request(method, f"/__control/{path}", json=body or {})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def fault(
        self, kind: str, path: str, *, times: int | None = 1, method: str = "POST", **args: Any
    ) -> None:
        match = {"path": path, "method": method}
        rule = {"kind": kind, "match": match, "times": times, "args": args}
        await self.control("faults", rule)

    async def pay(self, order: Order, **how: Any) -> dict[str, Any]:
        return await self.control(f"sessions/{order.session_id}/pay", how)

    async def change(self, kind: str, id_: str | None, changes: dict[str, Any]) -> None:
        """Somebody tampered with an object at Stripe; no event tells."""
        await self.control(f"objects/{kind}/{id_}", changes, "PATCH")

    async def refund_at_stripe(self, payment_id: str | None, amount: int | None = None) -> str:
        """As somebody does it in the Dashboard; the id of Stripe's refund."""
        params: dict[str, Any] = {"payment_intent": payment_id}
        if amount is not None:
            params["amount"] = amount
        made = await call(self.provider.v1.refunds.create_async, params)
        return str(made["id"])

    async def make_free_code(self) -> None:
        """`FREE` takes off all of any price."""
        v1 = self.provider.v1
        coupon = await call(v1.coupons.create_async, {"percent_off": 100, "duration": "once"})
        promotion = {"type": "coupon", "coupon": coupon["id"]}
        await call(v1.promotion_codes.create_async, {"code": "FREE", "promotion": promotion})

    async def dispute(self, order: Order, **terms: Any) -> str:
        opened = await self.control(
            "disputes", {"payment_intent": order.provider_payment_id, **terms}
        )
        return str(opened["id"])

    async def warn_of_fraud(self, order: Order) -> str:
        """The buyer's bank reports the payment as fraud."""
        opened = await self.control("fraud-warnings", {"payment_intent": order.provider_payment_id})
        return str(opened["id"])

    async def replace_price(
        self, lookup_key: str, *, archive: bool = True, **changes: Any
    ) -> tuple[str, str]:
        """An operator makes a new price under the same key; the ids of the old and the new one."""
        listed = await call(self.provider.v1.prices.list_async, {"lookup_keys": [lookup_key]})
        old = listed["data"][0]
        terms = {name: old[name] for name in ("product", "unit_amount", "currency", "lookup_key")}
        made = await call(
            self.provider.v1.prices.create_async,
            {**terms, "transfer_lookup_key": True, "tax_behavior": "inclusive", **changes},
        )
        if archive:
            await call(self.provider.v1.prices.update_async, old["id"], {"active": False})
        return str(old["id"]), str(made["id"])

    async def fired(self) -> list[int]:
        """How often each rule of misbehaviour has applied."""
        rules = (await self.control("faults", method="GET"))["rules"]
        return [rule["fired"] for rule in rules]

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.database.row("select app.payments_health() as found")["found"]
        return found

    async def close_dispute(self, dispute_id: str, status: str) -> None:
        await self.control(f"disputes/{dispute_id}", {"status": status})

    async def events(self, type_: str | None = None) -> list[dict[str, Any]]:
        """What Stripe would tell us, the oldest first."""
        query = f"?type={type_}" if type_ else ""
        listed = (await self.control(f"events{query}", method="GET"))["events"]
        for event in listed:
            event.pop("deliveries", None)
        return sorted(listed, key=lambda event: (event["created"], event["id"]))

    # --- what our side does ------------------------------------------------------------------

    async def sync(self, order: Order | uuid.UUID) -> Synced:
        order_id = order.id if isinstance(order, Order) else order
        return await sync_order(self.ctx.db, self.provider, order_id)

    async def receive(self, *bodies: dict[str, Any]) -> None:
        """Verified events arrive; nothing is handled yet."""
        for event in bodies:
            received = received_event(event)
            await self.api_db.run(lambda conn, received=received: events.receive(conn, received))  # type: ignore[misc]  # bound at once

    async def run_tasks(self) -> list[str]:
        """Every task that nobody holds, once each, in the order of their ids: any order will do."""
        due = self.database.rows(
            "select id from app.outbox"
            " where lease_until is null or lease_until < app.now() order by id"
        )
        return [await runner.execute(self.ctx, row["id"]) for row in due]

    async def deliver(self, type_: str | None = None) -> list[str]:
        """The events of Stripe arrive and are handled; the outcomes of their tasks."""
        await self.receive(*await self.events(type_))
        return await self.run_tasks()

    def find(self, order: Order | uuid.UUID) -> Order:
        order_id = order.id if isinstance(order, Order) else order
        return msgspec.convert(
            self.database.row(f"{queries.ORDER} where orders.id = %s", (order_id,)), Order
        )

    def returns_of(self, order: Order) -> list[tuple[str, str, int]]:
        rows = self.database.rows(
            "select origin, state, amount from app.payment_returns where order_id = %s"
            " order by created_at, id",
            (order.id,),
        )
        return [(row["origin"], row["state"], row["amount"]) for row in rows]

    def lots(self) -> list[int]:
        """What was granted for purchases, as often as it was."""
        rows = self.database.rows(
            "select granted from app.credit_lots where source = 'purchase' order by created_at, id"
        )
        return [row["granted"] for row in rows]


@contextlib.asynccontextmanager
async def set_up_payments(
    settings: Settings, database: TestDatabase, pixels: PixelPool
) -> AsyncIterator[PaymentsHarness]:
    """Products and prices are set up; nothing is delivered by itself."""
    assert settings.worker_database_url is not None
    async with contextlib.AsyncExitStack() as stack:
        api_db = Database(settings.database_url.get_secret_value(), pool_size=8, name="api")
        await api_db.open()
        stack.push_async_callback(api_db.close)
        db = Database(settings.worker_database_url.get_secret_value(), pool_size=8, name="worker")
        await db.open()
        stack.push_async_callback(db.close)
        sandbox = await stack.enter_async_context(
            opened_stripe(StripeSandboxConfig(base_url=STRIPE_URL))
        )
        provider = StripeClient(settings, transport=InProcessTransport(sandbox))
        stack.push_async_callback(provider.close)
        looking = StripeClient(settings, patience=LOOK, transport=InProcessTransport(sandbox))
        stack.push_async_callback(looking.close)
        stripe = await stack.enter_async_context(
            httpx.AsyncClient(transport=InProcessTransport(sandbox), base_url=STRIPE_URL)
        )
        http = await stack.enter_async_context(httpx.AsyncClient(transport=HttpRouter()))
        ctx = await stack.enter_async_context(
            open_worker_context(settings, db=db, http=http, pixels=pixels, payments=looking)
        )
        packs = await api_db.run(service.list_packs)
        with contextlib.redirect_stdout(None):
            await set_up(settings, provider, packs, endpoint=False)
        yield PaymentsHarness(
            database=database,
            api_db=api_db,
            ctx=ctx,
            provider=provider,
            stripe=stripe,
            sandbox=sandbox,
        )
