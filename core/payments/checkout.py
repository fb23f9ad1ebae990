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
from core.payments.keys import note_key
from core.payments.provider import (
    CheckoutSession,
    PaymentProviderError,
    ProviderKeyReusedError,
    ProviderRefusedError,
    ProviderServerError,
    Refused,
    SessionRequest,
    SessionState,
)
from core.payments.types import PAYABLE, RETRYABLE, Order, OrderState

log = structlog.get_logger()

# Each mend takes one: a customer, a price, a time and a stored failure may all be refused in turn.
ATTEMPTS_MAX: Final = 4


class Checkout(msgspec.Struct, frozen=True):
    """An order, and its buyer's customer at the provider if there is one already."""

    order: Order
    customer_id: str | None


async def start_order(conn: Connection, order_id: uuid.UUID, pack: str) -> uuid.UUID:
    """A new order, or the caller's open one for the same pack. Runs as the user.

    Raises: NotFoundError, NotAllowedError, QuotaError, NoIdentityError.
    """
    return await queries.start_order(conn, order_id, pack)


async def go_on(conn: Connection, order_id: uuid.UUID) -> Checkout:
    """The checkout of an order of the caller's, who may still buy. Every way to a payment page
    leads through here. Raises: NotFoundError, NotAllowedError.
    """
    await queries.continue_order(conn, order_id)
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

    Raises: NotFoundError, NotAllowedError, QuotaError, ConflictError, TemporarilyUnavailableError.
    """
    checkout = await context.db.run(lambda conn: go_on(conn, order_id), scope=buyer.scope)
    if checkout.order.state in RETRYABLE:
        try:
            await context.deadline.hold(_close_session(context, checkout.order))
        except PaymentProviderError as error:
            raise await _unavailable(context, error, checkout.order) from error

        async def begin_again(conn: Connection) -> Checkout:
            await queries.retry_order(conn, checkout.order)
            return await go_on(conn, order_id)

        checkout = await context.db.run(begin_again, scope=buyer.scope)
    return await _open_session(context, buyer, checkout)


class _Attempts:
    """One click's attempts at a page, and what the provider has refused of the earlier ones."""

    def __init__(self, context: CheckoutContext, buyer: Buyer, checkout: Checkout) -> None:
        self._context = context
        self._buyer = buyer
        self.order = checkout.order
        self._customer_id = checkout.customer_id
        self._lost_customer_id: str | None = None
        self._price_id = checkout.order.price_id

    async def run(self) -> None:
        """Raises: PaymentProviderError, ConflictError, TemporarilyUnavailableError."""
        if self._customer_id is None:
            self._customer_id = await create_customer(
                self._context,
                self._buyer,
                attempt=self.order.attempt,
                replaces=self._lost_customer_id,
            )
        if self._price_id is None:
            self._price_id = await self._find_price()
        await self._create_session(self._customer_id, self._price_id)

    async def mend(self, error: PaymentProviderError) -> None:
        """Another attempt, where that may help. Raises: `error` where it does not."""
        if isinstance(error, ProviderRefusedError):
            match error.part:
                case Refused.CUSTOMER:
                    self._lost_customer_id, self._customer_id = self._customer_id, None
                case Refused.PRICE:
                    self._context.provider.discard_prices()
                    self._price_id = None
                case Refused.EXPIRY:
                    self.order = await self._run(queries.renew_attempt)
                    return
                case _:
                    raise error
        elif not isinstance(error, ProviderServerError | ProviderKeyReusedError):
            raise error
        self.order = await self._run(queries.next_attempt)

    async def _run(self, query: queries.OfOrder) -> Order:
        return await self._context.db.run(lambda conn: query(conn, self.order))

    async def _create_session(self, customer_id: str, price_id: str) -> None:
        context, order = self._context, self.order
        session: CheckoutSession = await context.deadline.hold(
            context.provider.create_session(
                SessionRequest(
                    order_id=order.id,
                    user_id=order.user_id,
                    pack_slug=order.pack_slug,
                    credits=order.credits,
                    price_id=price_id,
                    customer_id=customer_id,
                    expires_at=order.expires_at,
                    # The landing page is found by the order, for its owner: a session's id opens
                    # nothing.
                    success_url=context.landing_url_of(order.id),
                    cancel_url=context.landing_url_of(order.id, cancelled="true"),
                ),
                key=f"checkout:{order.id}:{order.attempt}",
            )
        )
        self.order = await context.db.run(
            lambda conn: queries.record_session(
                conn,
                order,
                session_id=session.id,
                url=session.url,
                price_id=price_id,
                customer_id=customer_id,
            )
        )

    async def _find_price(self) -> str:
        """The price under the pack's key, if it is the order's.

        Raises: ConflictError where the pack has another price now, TemporarilyUnavailableError
        where the provider's price is not the catalogue's: an operator's mistake.
        """
        context, order = self._context, self.order
        price = await context.deadline.hold(context.provider.find_price(order.lookup_key))
        ours = (order.unit_amount, order.currency)
        if price is not None and (price.unit_amount, price.currency) == ours:
            return price.id
        context.provider.discard_prices()
        if not order.is_on_sale:
            await context.db.run(
                lambda conn: queries.end_attempt(conn, order, PaymentReason.PRICE_CHANGED)
            )
            raise ConflictError(reason=PaymentReason.PRICE_CHANGED, state=OrderState.EXPIRED)
        log.error(
            "payment.price_differs",
            lookup_key=order.lookup_key,
            ours=order.unit_amount,
            theirs=price.unit_amount if price else None,
        )
        raise TemporarilyUnavailableError(what="pack")


async def _open_session(context: CheckoutContext, buyer: Buyer, checkout: Checkout) -> Order:
    attempts = _Attempts(context, buyer, checkout)
    for _ in range(ATTEMPTS_MAX):
        if _has_page(attempts.order):
            return attempts.order
        try:
            try:
                await attempts.run()
            except PaymentProviderError as error:
                await attempts.mend(error)
        except PaymentProviderError as error:
            raise await _unavailable(context, error, attempts.order) from error
    if _has_page(attempts.order):
        return attempts.order
    raise TemporarilyUnavailableError(what="payments")


def _has_page(order: Order) -> bool:
    """Raises: ConflictError when there will be none."""
    if order.state not in PAYABLE:
        raise ConflictError(reason=PaymentReason.ORDER_ENDED, state=order.state)
    return order.state is OrderState.OPEN and order.session_url is not None


async def _close_session(context: CheckoutContext, order: Order) -> None:
    """Raises: ConflictError when the old session was paid after all, or still may be."""
    if order.session_id is None:
        return
    session = await context.provider.get_session(order.session_id)
    if session.state is SessionState.OPEN:
        session = await context.provider.expire_session(order.session_id)
    if session.is_paid:
        raise ConflictError(reason=PaymentReason.PAYMENT_ARRIVED, state=order.state)


async def _unavailable(
    context: CheckoutContext, error: PaymentProviderError, order: Order
) -> TemporarilyUnavailableError:
    log.error("payment.checkout_failed", order_id=str(order.id), reason=error.reason)
    await note_key(context.db, error)
    return TemporarilyUnavailableError(what="payments")
