"""What heals lost webhooks, lost answers and lost sessions; webhooks only make it faster."""

from collections.abc import Awaitable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import structlog
from psycopg.types.json import Jsonb

from core.db import Connection, Database
from core.errors import RetryableError
from core.payments import queries
from core.payments.refunds import create_refund
from core.payments.stripe import events
from core.payments.stripe.client import StripeError, StripeGateway
from core.payments.sync import sync_order

log = structlog.get_logger()

SETTLED_AFTER_SECONDS: Final = 300
_AT_ONCE: Final = 500
COMPLETED_BACK: Final = timedelta(hours=48)
EVENTS_BACK: Final = timedelta(hours=72)
EVENTS_BACK_WEEKLY: Final = timedelta(days=30)
_MONDAY: Final = 0


async def sync_unsettled(
    db: Database, gateway: StripeGateway, *, older_than_seconds: float = SETTLED_AFTER_SECONDS
) -> int:
    """Orders, refunds and events that wait longer than they should; how many were seen to."""
    older: dict[str, Any] = {"older_than_seconds": older_than_seconds, "limit": _AT_ONCE}
    orders = await db.run(lambda conn: queries.list_unsettled(conn, **older))
    refunds = await db.run(lambda conn: queries.list_forgotten_refunds(conn, **older))
    waiting = await db.run(lambda conn: queries.list_forgotten_events(conn, **older))
    for order_id in orders:
        await _patiently(sync_order(db, gateway, order_id), order_id)
    for refund_id in refunds:
        await _patiently(create_refund(db, gateway, refund_id), refund_id)
    for event_id in waiting:
        await _patiently(events.handle(db, gateway, event_id), event_id)
    return len(orders) + len(refunds) + len(waiting)


async def sync_completed(
    db: Database, gateway: StripeGateway, *, back: timedelta = COMPLETED_BACK
) -> int:
    """Sessions that Stripe says are paid and our orders do not; how many were seen to."""
    since = int((datetime.now(UTC) - back).timestamp())
    listed = gateway.list_sessions({"status": "complete", "created": {"gte": since}})
    paid = {each.id: each async for each in listed if each.is_paid}
    known = await db.run(lambda conn: queries.list_paid_by_session(conn, list(paid)))
    ours = {row["session_id"] for row in known}
    missed = 0
    for session in paid.values():
        if session.id in ours:
            continue
        order_id = await events.find_existing(db, session.client_reference_id)
        if order_id is not None:
            log.warning("payment.found_by_list", order_id=str(order_id))
            found = sync_order(db, gateway, order_id, session_id=session.id)
            await _patiently(found, order_id)
            missed += 1
    return missed


async def fetch_events(db: Database, gateway: StripeGateway, *, today: date | None = None) -> int:
    """Events of refunds and disputes that no webhook brought; how many were new."""
    day = today or datetime.now(UTC).date()
    back = EVENTS_BACK_WEEKLY if day.weekday() == _MONDAY else EVENTS_BACK
    since = int((datetime.now(UTC) - back).timestamp())
    params = {"types": list(events.REVERSAL_TYPES), "created": {"gte": since}}
    new = 0
    async for event in gateway.list_events(params):
        task_id = await db.run(
            lambda conn, event=event: queries.receive_event(conn, event, "reconcile")  # type: ignore[misc]
        )
        new += task_id is not None
    return new


async def compare_day(db: Database, gateway: StripeGateway, day: date) -> list[dict[str, Any]]:
    """Every session paid on one side only or with another total; kept, and an alarm.

    A day is that of the session's creation, UTC.
    """
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    created = {"gte": int(start.timestamp()), "lt": int(end.timestamp())}
    listed = gateway.list_sessions({"status": "complete", "created": created})
    theirs = {
        each.id: each.amount_total or 0
        async for each in listed
        if each.is_paid and "order_id" in each.metadata
    }

    async def load(conn: Connection) -> dict[str, int]:
        by_day = await queries.list_paid_between(conn, start, end)
        by_session = await queries.list_paid_by_session(conn, list(theirs))
        return {row["session_id"]: row["amount_total"] for row in (*by_day, *by_session)}

    ours = await db.run(load)
    for session_id in [key for key in ours if key not in theirs]:
        # An attempt and its session may lie on two sides of midnight.
        session = await gateway.get_session(session_id)
        if session.is_paid and not start.timestamp() <= session.created < end.timestamp():
            del ours[session_id]
    differing = [
        {"session_id": key, "stripe": theirs.get(key), "ours": ours.get(key)}
        for key in sorted({*ours, *theirs})
        if theirs.get(key) != ours.get(key)
    ]
    for row in differing:
        log.error("payment.day_differs", day=day.isoformat(), **row)

    async def record(conn: Connection) -> None:
        await conn.execute(
            "select app.record_payment_day(%s, %s, %s, %s, %s, %s)",
            (
                day,
                len(theirs),
                sum(theirs.values()),
                len(ours),
                sum(ours.values()),
                Jsonb(differing),
            ),
        )

    await db.run(record)
    return differing


async def _patiently(work: Awaitable[object], subject: object) -> None:
    """One that cannot be seen to now does not keep the others waiting."""
    try:
        await work
    except (StripeError, RetryableError) as error:
        log.warning("payment.waits", subject=str(subject), reason=str(error))
