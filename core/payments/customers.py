"""A buyer's customer at the provider: made once, found again, and the page that shows it."""

import hashlib
import uuid

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


async def get_customer(conn: Connection, user_id: uuid.UUID) -> str:
    """Raises: NotFoundError when nothing was ever bought."""
    customer_id = await queries.find_customer(conn, user_id)
    if customer_id is None:
        raise NotFoundError(kind="customer")
    return customer_id


async def create_portal_url(
    context: CheckoutContext, customer_id: str, *, visit_id: uuid.UUID
) -> str:
    """The provider's own page where the buyer sees payments, receipts and cards.

    Raises: TemporarilyUnavailableError. Replay: the same visit answers the same page.
    """
    try:
        return await context.provider.create_portal_url(
            customer_id, return_url=context.landing_url, key=f"portal:{visit_id}"
        )
    except PaymentProviderError as error:
        log.warning("payment.portal_failed", reason=error.reason)
        raise TemporarilyUnavailableError(what="payments") from error
