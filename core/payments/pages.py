"""Closes the payment pages of somebody who may not buy any more: they could be paid until they
expire by themselves."""

import uuid

import structlog

from core.db import Database
from core.payments import queries
from core.payments.provider import PaymentProvider, ProviderRefusedError
from core.payments.sync import sync_order

log = structlog.get_logger()


async def close_pages(db: Database, provider: PaymentProvider, user_id: uuid.UUID) -> int:
    """Expires the open pages of a buyer and syncs their orders; how many there were.

    Raises: PaymentProviderError, RetryableError. Replay: safe.
    """
    pages = await db.run(lambda conn: queries.list_open_pages(conn, user_id))
    for order_id, session_id in pages:
        try:
            await provider.expire_session(session_id)
        except ProviderRefusedError as error:
            # It has expired or was paid meanwhile; the sync finds out which.
            log.info("payment.page_not_closed", order_id=str(order_id), reason=error.reason)
        await sync_order(db, provider, order_id)
    return len(pages)
