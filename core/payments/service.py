"""What buyers and admins read: packs, orders, refunds and the log of events."""

import uuid
from datetime import datetime

import msgspec

from core.db import Connection, fetch_one
from core.errors import NotFoundError
from core.payments import queries
from core.payments.types import Order, OrderState, Pack, Refund, StripeEvent


async def list_packs(conn: Connection) -> list[Pack]:
    """What can be bought now, the smallest first."""
    return msgspec.convert(await queries.list_packs(conn), list[Pack])


async def get_order(conn: Connection, order_id: uuid.UUID) -> Order:
    """Raises: NotFoundError, also for another's order."""
    row = await queries.find_order(conn, order_id)
    if row is None:
        raise NotFoundError(kind="order")
    return msgspec.convert(row, Order)


async def list_orders(
    conn: Connection,
    *,
    states: tuple[OrderState, ...] = (),
    user_id: uuid.UUID | None = None,
    in_review: bool = False,
    with_invoice: bool = False,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Order]:
    """Newest first. `in_review` also finds orders that are paid and still want a look."""
    rows = await queries.list_orders(
        conn,
        states=[state.value for state in states],
        user_id=user_id,
        in_review=in_review,
        with_invoice=with_invoice,
        before=before,
        limit=limit,
    )
    return msgspec.convert(rows, list[Order])


async def list_refunds(
    conn: Connection,
    *,
    order_id: uuid.UUID | None = None,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Refund]:
    rows = await queries.list_refunds(conn, order_id=order_id, before=before, limit=limit)
    return msgspec.convert(rows, list[Refund])


async def request_sync(conn: Connection, order_id: uuid.UUID) -> uuid.UUID | None:
    """Want a look at Stripe for an open order of the caller; the task, or None if none is needed.

    Raises: NotFoundError, NoIdentityError.
    """
    row = await fetch_one(conn, "select app.request_order_sync(%s) as task_id", (order_id,))
    assert row is not None
    task_id: uuid.UUID | None = row["task_id"]
    return task_id


async def list_events(
    conn: Connection,
    *,
    types: tuple[str, ...] = (),
    waiting_only: bool = False,
    order_id: uuid.UUID | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[StripeEvent]:
    rows = await queries.list_events(
        conn,
        types=list(types),
        waiting_only=waiting_only,
        order_id=order_id,
        before=before,
        limit=limit,
    )
    return msgspec.convert(rows, list[StripeEvent])


async def get_event(conn: Connection, event_id: str) -> StripeEvent:
    """With its payload. Raises: NotFoundError."""
    row = await queries.find_event(conn, event_id)
    if row is None:
        raise NotFoundError(kind="stripe_event")
    return msgspec.convert(row, StripeEvent)
