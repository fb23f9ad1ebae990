"""Brings an order to its state at the provider: the only place where a payment becomes credits.

Webhook, landing page, returns and the schedules all call this. The state is fetched outside of any
transaction and written only where the order has not changed since; otherwise it is fetched again.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from core.db import Connection, Database
from core.errors import NotFoundError, RetryableError
from core.payments import queries
from core.payments.deadline import LOOK_SECONDS, Deadline
from core.payments.fetch import OrderSnapshot, fetch_state
from core.payments.provider import PaymentProvider
from core.payments.types import Synced

log = structlog.get_logger()

ATTEMPTS_MAX: Final = 10

WithSynced = Callable[[Connection, Synced], Awaitable[None]]


async def sync_order(
    db: Database,
    provider: PaymentProvider,
    order_id: uuid.UUID,
    *,
    claimed_session_id: str | None = None,
    record: WithSynced | None = None,
) -> Synced:
    """`claimed_session_id` is a session that claims to be of this order. `record` writes, in the
    transaction of the effect, what else follows from it.

    Raises: NotFoundError, PaymentProviderError, RetryableError.
    Replay: safe; what was granted or clawed back is not posted again.
    """
    for _ in range(ATTEMPTS_MAX):
        synced = await _try_to_sync(db, provider, order_id, claimed_session_id, record)
        if synced is not None:
            return synced
        await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311  spreads writers, no secret
    raise RetryableError("order_busy")


async def _try_to_sync(
    db: Database,
    provider: PaymentProvider,
    order_id: uuid.UUID,
    claimed_session_id: str | None,
    record: WithSynced | None,
) -> Synced | None:
    """None: the order has changed during the fetch."""
    snapshot = await db.run(lambda conn: _get_snapshot(conn, order_id))
    look = fetch_state(provider, snapshot, claimed_session_id)
    fetched = await Deadline(LOOK_SECONDS).hold(look)

    async def write(conn: Connection) -> Synced | None:
        synced = await queries.write_state(conn, snapshot, fetched)
        if synced is not None and record is not None:
            await record(conn, synced)
        return synced

    synced = await db.run(write)
    if synced is not None:
        _report(order_id, synced)
    return synced


async def _get_snapshot(conn: Connection, order_id: uuid.UUID) -> OrderSnapshot:
    snapshot = await queries.find_snapshot(conn, order_id)
    if snapshot is None:
        raise NotFoundError(kind="order")
    return snapshot


def _report(order_id: uuid.UUID, synced: Synced) -> None:
    if synced.review_reason:
        log.error("payment.review", order_id=str(order_id), reason=synced.review_reason)
    if synced.granted or synced.credits_reversed or synced.state != synced.was:
        log.info(
            "payment.synced",
            order_id=str(order_id),
            state=synced.state,
            was=synced.was,
            granted=synced.granted,
            credits_reversed=synced.credits_reversed,
        )
