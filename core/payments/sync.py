"""Brings an order to what the provider says now: the only place where a payment becomes credits.

Webhook, landing page, returns and the schedules all come here. The provider is asked outside of
any transaction; what it says is written only where the order has not moved on since, else it is
asked again.
"""

import asyncio
import random
import uuid
from typing import Final

import structlog

from core.db import Connection, Database
from core.errors import NotFoundError, RetryableError
from core.payments import queries
from core.payments.fetch import FetchedState, OrderSnapshot, fetch_state
from core.payments.provider import PaymentProvider
from core.payments.types import Synced

log = structlog.get_logger()

ATTEMPTS_MAX: Final = 10


async def sync_order(
    db: Database,
    provider: PaymentProvider,
    order_id: uuid.UUID,
    *,
    claimed_session_id: str | None = None,
    event_id: str | None = None,
    lease_token: uuid.UUID | None = None,
) -> Synced:
    """`claimed_session_id` is a session that claims to be of this order.

    The event is marked handled and the task completed in the transaction of the effect.
    Raises: NotFoundError, PaymentProviderError, RetryableError, LeaseLostError.
    Replay: safe; what was granted or clawed back is not posted again.
    """
    for _ in range(ATTEMPTS_MAX):
        snapshot = await db.run(lambda conn: _get_snapshot(conn, order_id))
        fetched = await fetch_state(provider, snapshot, claimed_session_id)
        synced = await db.run(
            lambda conn, snapshot=snapshot, fetched=fetched: queries.write_state(  # type: ignore[misc]
                conn, snapshot, fetched, event_id=event_id, lease_token=lease_token
            )
        )
        if synced is not None:
            _report(order_id, fetched, synced)
            return synced
        await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311  spreads writers, no secret
    raise RetryableError("order_busy")


async def _get_snapshot(conn: Connection, order_id: uuid.UUID) -> OrderSnapshot:
    snapshot = await queries.find_snapshot(conn, order_id)
    if snapshot is None:
        raise NotFoundError(kind="order")
    return snapshot


def _report(order_id: uuid.UUID, fetched: FetchedState, synced: Synced) -> None:
    if fetched.review_reason:
        log.error("payment.review", order_id=str(order_id), reason=fetched.review_reason)
    if synced.granted or synced.credits_reversed or synced.state != synced.was:
        log.info(
            "payment.synced",
            order_id=str(order_id),
            state=synced.state,
            was=synced.was,
            granted=synced.granted,
            credits_reversed=synced.credits_reversed,
        )
