"""What buyers and admins read of packs and orders, and the request of a sync."""

import uuid
from datetime import datetime

from core.db import Connection
from core.errors import NotFoundError
from core.payments import queries
from core.payments.types import Order, OrderFilters, Pack


async def list_packs(conn: Connection) -> list[Pack]:
    """What can be bought now, the smallest first."""
    return await queries.list_packs(conn)


async def get_order(conn: Connection, order_id: uuid.UUID) -> Order:
    """Raises: NotFoundError, also for another's order."""
    order = await queries.find_order(conn, order_id)
    if order is None:
        raise NotFoundError(kind="order")
    return order


async def find_order_id(conn: Connection, reference: str | None) -> uuid.UUID | None:
    """The order of ours that a provider's object was created with, if it is one."""
    try:
        order_id = uuid.UUID(reference or "")
    except ValueError:
        return None
    order = await queries.find_order(conn, order_id)
    return order.id if order else None


async def list_orders(
    conn: Connection,
    filters: OrderFilters,
    *,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Order]:
    """Newest first."""
    return await queries.list_orders(conn, filters, before=before, limit=limit)


async def request_sync(conn: Connection, order_id: uuid.UUID) -> None:
    """Has an open order of the caller synced, once a second at most.

    Raises: NotFoundError, NoIdentityError.
    """
    await queries.request_sync(conn, order_id)
