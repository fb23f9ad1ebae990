"""A buyer's customer at the provider: made once, found again, and the page that shows it."""

import hashlib

import structlog

from core.db import Connection
from core.errors import NotFoundError, TemporarilyUnavailableError
from core.payments import queries
from core.payments.context import Buyer, CheckoutContext
from core.payments.provider import PaymentProviderError

log = structlog.get_logger()


async def create_customer(
    context: CheckoutContext, buyer: Buyer, *, replaces: str | None = None
) -> str:
    """The buyer's customer at the provider; `replaces` is one that the provider has lost.

    Raises: PaymentProviderError. Replay: the same customer, also for two that create at once.
    """
    terms = hashlib.sha256(f"{buyer.email} {replaces}".encode()).hexdigest()[:12]
    made = await context.provider.create_customer(
        buyer.user_id, buyer.email, key=f"customer:{buyer.user_id}:{terms}"
    )
    return await context.db.run(
        lambda conn: queries.record_customer(conn, buyer.user_id, made, replaces=replaces)
    )


async def create_portal_url(context: CheckoutContext, buyer: Buyer) -> str:
    """The provider's own page where the buyer sees payments, receipts and cards.

    Raises: NotFoundError when nothing was ever bought, TemporarilyUnavailableError.
    """

    async def load(conn: Connection) -> str | None:
        return await queries.find_customer(conn, buyer.user_id)

    customer_id = await context.db.run(load, scope=buyer.scope)
    if customer_id is None:
        raise NotFoundError(kind="customer")
    try:
        return await context.provider.create_portal_url(customer_id, return_url=context.landing_url)
    except PaymentProviderError as error:
        log.warning("payment.portal_failed", reason=error.reason)
        raise TemporarilyUnavailableError(what="payments") from error
