"""Checkout, the act of buying a pack: the order first, then the provider's customer and session,
then the record of both.

A create whose answer is lost is repeated with the same key and the same parameters, all of which
follow from the order's row; so two clicks, two processes and a crash end at one session.
"""

import uuid
from typing import Final

import msgspec
import structlog

from core.db import Connection
from core.errors import ConflictError, TemporarilyUnavailableError
from core.payments import queries, service
from core.payments.context import Buyer, CheckoutContext
from core.payments.customers import create_customer
from core.payments.errors import PaymentReason
from core.payments.provider import (
    Missing,
    PaymentProvider,
    PaymentProviderError,
    Price,
    ProviderKeyReusedError,
    ProviderRefusedError,
    ProviderServerError,
    SessionRequest,
    SessionState,
)
from core.payments.types import PAYABLE, RETRYABLE, Order, OrderState

log = structlog.get_logger()

ATTEMPTS_MAX: Final = 3


class Checkout(msgspec.Struct, frozen=True):
    """An order, and its buyer's customer at the provider if there is one already."""

    order: Order
    customer_id: str | None


async def start_order(conn: Connection, order_id: uuid.UUID, pack: str) -> uuid.UUID:
    """A new order, or the caller's open one for the same pack. Runs as the user.

    Raises: NotFoundError, NotAllowedError, QuotaError, NoIdentityError.
    """
    return await queries.start_order(conn, order_id, pack)


async def find_started(conn: Connection, order_id: uuid.UUID) -> Checkout:
    """The checkout of an order of the caller's. Raises: NotFoundError."""
    order = await service.get_order(conn, order_id)
    return Checkout(order, await queries.find_customer(conn, order.user_id))


async def open_session(context: CheckoutContext, buyer: Buyer, checkout: Checkout) -> Order:
    """The order with a session that can be paid, or as it is where that time is over.

    Raises: ConflictError (it has ended meanwhile), TemporarilyUnavailableError: then nothing is
    lost, and the same call again continues with the same order.
    """
    if checkout.order.state not in PAYABLE:
        return checkout.order
    return await _open_session(context, buyer, checkout)


async def retry(context: CheckoutContext, buyer: Buyer, order_id: uuid.UUID) -> Order:
    """A new session for a failed or expired payment, once the old one can no longer be paid.

    Raises: NotFoundError, ConflictError, TemporarilyUnavailableError.
    """
    checkout = await context.db.run(lambda conn: find_started(conn, order_id), scope=buyer.scope)
    if checkout.order.state in RETRYABLE:
        try:
            await _close_session(context.provider, checkout.order)
        except PaymentProviderError as error:
            raise _unavailable(error, checkout.order) from error

        async def begin_again(conn: Connection) -> Checkout:
            await queries.retry_order(conn, checkout.order)
            return await find_started(conn, order_id)

        checkout = await context.db.run(begin_again, scope=buyer.scope)
    return await _open_session(context, buyer, checkout)


async def _open_session(context: CheckoutContext, buyer: Buyer, checkout: Checkout) -> Order:
    order, customer_id = checkout.order, checkout.customer_id
    lost_customer_id: str | None = None
    for _ in range(ATTEMPTS_MAX):
        if _has_page(order):
            return order
        try:
            if customer_id is None:
                customer_id = await create_customer(context, buyer, replaces=lost_customer_id)
            order = await _create_session(context, order, customer_id)
            if _has_page(order):
                return order
        except (ProviderServerError, ProviderKeyReusedError):
            order = await _next_attempt(context, order)
        except ProviderRefusedError as error:
            if error.missing is Missing.CUSTOMER:
                lost_customer_id, customer_id = customer_id, None
            elif error.missing is Missing.PRICE:
                context.provider.discard_prices()
            else:
                raise _unavailable(error, order) from error
            order = await _next_attempt(context, order)
        except PaymentProviderError as error:
            raise _unavailable(error, order) from error
    raise TemporarilyUnavailableError(what="payments")


def _has_page(order: Order) -> bool:
    """Raises: ConflictError when there will be none."""
    if order.state not in PAYABLE:
        raise ConflictError(reason=PaymentReason.ORDER_ENDED, state=order.state)
    return order.state is OrderState.OPEN and order.session_url is not None


async def _create_session(context: CheckoutContext, order: Order, customer_id: str) -> Order:
    """The order as it is with the session's page."""
    price = await _get_price(context.provider, order)
    back = f"{context.landing_url}?order={order.id}"
    session = await context.provider.create_session(
        SessionRequest(
            order_id=order.id,
            user_id=order.user_id,
            pack_slug=order.pack_slug,
            credits=order.credits,
            price_id=price.id,
            customer_id=customer_id,
            expires_at=order.expires_at,
            # The landing page is found by the order, for its owner: a session's id opens nothing.
            success_url=back,
            cancel_url=f"{back}&cancelled=true",
        ),
        key=f"checkout:{order.id}:{order.attempt}",
    )
    return await context.db.run(
        lambda conn: queries.record_session(
            conn,
            order,
            session_id=session.id,
            url=session.url,
            price_id=price.id,
            customer_id=customer_id,
        )
    )


async def _get_price(provider: PaymentProvider, order: Order) -> Price:
    """Raises: TemporarilyUnavailableError where the provider's price is not the catalogue's."""
    price = await provider.find_price(order.lookup_key)
    if price is None or (price.unit_amount, price.currency) != (order.unit_amount, order.currency):
        provider.discard_prices()
        log.error(
            "payment.price_differs",
            lookup_key=order.lookup_key,
            ours=order.unit_amount,
            theirs=price.unit_amount if price else None,
        )
        raise TemporarilyUnavailableError(what="pack")
    return price


async def _close_session(provider: PaymentProvider, order: Order) -> None:
    """Raises: ConflictError when the old session was paid after all, or still may be."""
    if order.session_id is None:
        return
    session = await provider.get_session(order.session_id)
    if session.state is SessionState.OPEN:
        session = await provider.expire_session(order.session_id)
    if session.is_paid:
        raise ConflictError(reason=PaymentReason.PAYMENT_ARRIVED, state=order.state)


async def _next_attempt(context: CheckoutContext, order: Order) -> Order:
    return await context.db.run(lambda conn: queries.next_attempt(conn, order))


def _unavailable(error: PaymentProviderError, order: Order) -> TemporarilyUnavailableError:
    log.error("payment.checkout_failed", order_id=str(order.id), reason=error.reason)
    return TemporarilyUnavailableError(what="payments")
