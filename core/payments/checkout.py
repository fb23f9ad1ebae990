"""Selling a pack: the order first, then Stripe's customer and session, then what we know of it.

A create whose answer is lost is repeated with the same key and the same parameters, all of which
follow from the order's row; so two clicks, two processes and a crash end at one session.
"""

import hashlib
import uuid
from typing import Any, Final

import msgspec
import structlog

from core.db import Connection, Database, Scope, fetch_one
from core.errors import ConflictError, NotFoundError, TemporarilyUnavailableError
from core.payments import queries, service
from core.payments.stripe.client import (
    StripeError,
    StripeGateway,
    StripeKeyReusedError,
    StripeRefusedError,
    StripeServerError,
)
from core.payments.types import Order, OrderState, Price, Session
from core.settings import Settings

log = structlog.get_logger()

_TRIES: Final = 3
_RETRYABLE: Final = frozenset({OrderState.FAILED, OrderState.EXPIRED})


class Cashier(msgspec.Struct, frozen=True):
    """What selling needs. `db` signs in as the API."""

    db: Database
    gateway: StripeGateway
    settings: Settings


class Buyer(msgspec.Struct, frozen=True):
    user_id: uuid.UUID
    email: str | None
    scope: Scope


async def start_order(conn: Connection, order_id: uuid.UUID, pack: str) -> uuid.UUID:
    """The id of the new order, or of the caller's open one for the same pack.

    Raises: NotFoundError, NotAllowedError, QuotaError, NoIdentityError. Runs as the user.
    """
    row = await fetch_one(conn, "select app.start_order(%s, %s) as started", (order_id, pack))
    assert row is not None
    return uuid.UUID(row["started"]["order_id"])


async def open_session(cashier: Cashier, buyer: Buyer, order_id: uuid.UUID) -> Order:
    """The order with a session that can be paid.

    Raises: NotFoundError, ConflictError (it has ended meanwhile), TemporarilyUnavailableError:
    then nothing is lost, and the same call again continues with the same order.
    """
    for _ in range(_TRIES):
        order = await get_order(cashier.db, buyer.scope, order_id)
        if order.state is not OrderState.CREATED:
            if order.state is OrderState.OPEN and order.session_url is not None:
                return order
            raise ConflictError(reason="this order has ended", state=order.state)
        try:
            customer_id = await ensure_customer(cashier, buyer)
            await _create_session(cashier, order, customer_id)
        except (StripeServerError, StripeKeyReusedError):
            await _next_attempt(cashier.db, order)
        except StripeRefusedError as error:
            if not await _mend(cashier, buyer, order, error):
                raise _unavailable(error, order) from error
        except StripeError as error:
            raise _unavailable(error, order) from error
    raise TemporarilyUnavailableError(what="payments")


async def retry_order(cashier: Cashier, buyer: Buyer, order_id: uuid.UUID) -> Order:
    """A new session for a failed or expired payment, once the old one can no longer be paid.

    Raises: NotFoundError, ConflictError, TemporarilyUnavailableError.
    """
    order = await get_order(cashier.db, buyer.scope, order_id)
    if order.state in _RETRYABLE:
        try:
            await _close_session(cashier.gateway, order)
        except StripeError as error:
            raise _unavailable(error, order) from error

        async def work(conn: Connection) -> None:
            await conn.execute("select app.retry_order(%s, %s)", (order.id, order.attempt))

        await cashier.db.run(work, scope=buyer.scope)
    return await open_session(cashier, buyer, order_id)


async def portal_url(cashier: Cashier, buyer: Buyer) -> str:
    """Stripe's own page where the buyer sees payments, receipts and cards.

    Raises: NotFoundError when nothing was ever bought, TemporarilyUnavailableError.
    """
    customer_id = await _known_customer(cashier, buyer)
    if customer_id is None:
        raise NotFoundError(kind="customer")
    try:
        return await cashier.gateway.create_portal_url(
            customer_id, return_url=cashier.settings.landing_url
        )
    except StripeError as error:
        log.warning("payment.portal_failed", reason=error.reason)
        raise TemporarilyUnavailableError(what="payments") from error


async def get_order(db: Database, scope: Scope, order_id: uuid.UUID) -> Order:
    """Raises: NotFoundError, also for another's order."""

    return await db.run(lambda conn: service.get_order(conn, order_id), scope=scope)


async def _known_customer(cashier: Cashier, buyer: Buyer) -> str | None:
    return await cashier.db.run(
        lambda conn: queries.find_customer(conn, buyer.user_id), scope=buyer.scope
    )


async def ensure_customer(cashier: Cashier, buyer: Buyer, *, replaces: str | None = None) -> str:
    """The buyer's customer at Stripe, made once; `replaces` is one that Stripe has forgotten."""
    known = await _known_customer(cashier, buyer)
    if known is not None and known != replaces:
        return known
    params: dict[str, Any] = {"metadata": {"user_id": str(buyer.user_id)}}
    if buyer.email is not None:
        params["email"] = buyer.email
    terms = hashlib.sha256(f"{buyer.email} {replaces}".encode()).hexdigest()[:12]
    made = await cashier.gateway.create_customer(params, key=f"customer:{buyer.user_id}:{terms}")

    async def record(conn: Connection) -> str:
        row = await fetch_one(
            conn,
            "select app.record_customer(%s, %s, %s) as customer_id",
            (buyer.user_id, made, replaces),
        )
        assert row is not None
        return str(row["customer_id"])

    return await cashier.db.run(record)


async def _create_session(cashier: Cashier, order: Order, customer_id: str) -> None:
    price = await cashier.gateway.find_price(order.lookup_key)
    if price is None or (price.unit_amount, price.currency) != (order.unit_amount, order.currency):
        cashier.gateway.forget_prices()
        log.error(
            "payment.price_differs",
            lookup_key=order.lookup_key,
            ours=order.unit_amount,
            theirs=price.unit_amount if price else None,
        )
        raise TemporarilyUnavailableError(what="this pack")
    session = await cashier.gateway.create_session(
        _session_params(cashier.settings, order, price, customer_id),
        key=f"checkout:{order.id}:{order.attempt}",
    )
    await cashier.db.run(lambda conn: _record_session(conn, order, session, price, customer_id))


async def _record_session(
    conn: Connection, order: Order, session: Session, price: Price, customer_id: str
) -> None:
    await conn.execute(
        "select app.record_session(%s, %s, %s, %s, %s, %s)",
        (order.id, order.attempt, session.id, session.url, price.id, customer_id),
    )


def _session_params(
    settings: Settings, order: Order, price: Price, customer_id: str
) -> dict[str, Any]:
    """Follow from the order's row alone: the same attempt must always send the same."""
    metadata = {
        "order_id": str(order.id),
        "user_id": str(order.user_id),
        "pack": order.pack_slug,
    }
    # The landing page is found by the order, for its owner: a session's id opens nothing.
    back = f"{settings.landing_url}?order={order.id}"
    params: dict[str, Any] = {
        "mode": "payment",
        "customer": customer_id,
        "client_reference_id": str(order.id),
        "line_items": [{"price": price.id, "quantity": 1}],
        "metadata": metadata,
        "payment_intent_data": {
            "metadata": metadata,
            "description": f"{order.credits} credits",
        },
        "adaptive_pricing": {"enabled": False},
        "expires_at": int(order.expires_at.timestamp()),
        "success_url": back,
        "cancel_url": f"{back}&cancelled=true",
    }
    if settings.stripe_promotion_codes:
        params["allow_promotion_codes"] = True
    if settings.stripe_invoices:
        params["invoice_creation"] = {"enabled": True, "invoice_data": {"metadata": metadata}}
    if settings.stripe_tax:
        params |= {
            "automatic_tax": {"enabled": True},
            "customer_update": {"address": "auto", "name": "auto"},
            "tax_id_collection": {"enabled": True},
        }
    return params


async def _close_session(gateway: StripeGateway, order: Order) -> None:
    """Raises: ConflictError when the old session was paid after all, or still may be."""
    if order.session_id is None:
        return
    session = await gateway.get_session(order.session_id)
    if session.status == "open":
        session = await gateway.expire_session(order.session_id)
    if session.is_paid:
        raise ConflictError(reason="this payment has arrived after all", state=order.state)


async def _mend(cashier: Cashier, buyer: Buyer, order: Order, error: StripeRefusedError) -> bool:
    """True when something that Stripe no longer knows was replaced: try again."""
    if not error.is_missing or error.param is None:
        return False
    if error.param == "customer":
        gone = await _known_customer(cashier, buyer)
        await ensure_customer(cashier, buyer, replaces=gone)
    else:
        cashier.gateway.forget_prices()
    await _next_attempt(cashier.db, order)
    return True


async def _next_attempt(db: Database, order: Order) -> None:
    async def work(conn: Connection) -> None:
        await conn.execute("select app.next_attempt(%s, %s)", (order.id, order.attempt))

    await db.run(work)


def _unavailable(error: StripeError, order: Order) -> TemporarilyUnavailableError:
    log.error("payment.checkout_failed", order_id=str(order.id), reason=error.reason)
    return TemporarilyUnavailableError(what="payments")
