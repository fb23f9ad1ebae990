"""Repairs what lost webhooks, answers and sessions left undone; webhooks only make it faster."""

from collections.abc import Awaitable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import msgspec
import structlog

from core.db import Connection, Database
from core.errors import RetryableError
from core.payments import queries, service
from core.payments.provider import CheckoutSession, PaymentProvider, PaymentProviderError
from core.payments.returns import create_return
from core.payments.sync import sync_order
from core.payments.types import DayDifference

log = structlog.get_logger()

SETTLED_AFTER_SECONDS: Final = 300
STRANDED_AFTER_SECONDS: Final = SETTLED_AFTER_SECONDS
AT_ONCE: Final = 500
COMPLETED_BACK: Final = timedelta(hours=48)


async def sync_unsettled(
    db: Database,
    provider: PaymentProvider,
    *,
    older_than_seconds: float = SETTLED_AFTER_SECONDS,
) -> int:
    """Syncs orders and makes returns that wait longer than they should; how many there were."""
    older: dict[str, Any] = {"older_than_seconds": older_than_seconds, "limit": AT_ONCE}
    orders = await db.run(lambda conn: queries.list_unsettled(conn, **older))
    returns = await db.run(lambda conn: queries.list_stranded_returns(conn, **older))
    for order_id in orders:
        await log_and_continue(sync_order(db, provider, order_id), order_id)
    for return_id in returns:
        await log_and_continue(create_return(db, provider, return_id), return_id)
    return len(orders) + len(returns)


async def sync_completed(
    db: Database, provider: PaymentProvider, *, back: timedelta = COMPLETED_BACK
) -> int:
    """Syncs orders whose session is paid at the provider but not here; how many there were."""
    listed = provider.list_sessions(since=datetime.now(UTC) - back, is_complete=True)
    paid = [each async for each in listed if each.is_paid]

    async def load_missed(conn: Connection) -> list[tuple[CheckoutSession, Any]]:
        known = await queries.list_paid_by_session(conn, [each.id for each in paid])
        ours = {each.session_id for each in known}
        return [
            (each, await service.find_order_id(conn, each.order_reference))
            for each in paid
            if each.id not in ours
        ]

    missed = 0
    for session, order_id in await db.run(load_missed):
        if order_id is not None:
            log.warning("payment.found_by_list", order_id=str(order_id))
            synced = sync_order(db, provider, order_id, claimed_session_id=session.id)
            await log_and_continue(synced, order_id)
            missed += 1
    return missed


async def compare_day(db: Database, provider: PaymentProvider, day: date) -> list[DayDifference]:
    """Every session paid on one side only or with another total; recorded, and an alarm.

    A day is that of the session's creation, UTC.
    """
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    listed = provider.list_sessions(since=start, until=end, is_complete=True)
    theirs = {
        each.id: each.amount_total or 0
        async for each in listed
        if each.is_paid and "order_id" in each.metadata
    }
    ours = await db.run(lambda conn: _list_paid(conn, start, end, list(theirs)))
    for session_id in [key for key in ours if key not in theirs]:
        # An attempt and its session may lie on two sides of midnight.
        session = await provider.get_session(session_id)
        if session.is_paid and not start <= session.created_at < end:
            del ours[session_id]
    differing = [
        DayDifference(key, theirs=theirs.get(key), ours=ours.get(key))
        for key in sorted({*ours, *theirs})
        if theirs.get(key) != ours.get(key)
    ]
    for row in differing:
        log.error("payment.day_differs", day=day.isoformat(), **msgspec.structs.asdict(row))
    await db.run(
        lambda conn: queries.record_day(
            conn,
            day,
            theirs=list(theirs.values()),
            ours=list(ours.values()),
            differing=differing,
        )
    )
    return differing


async def _list_paid(
    conn: Connection, start: datetime, end: datetime, session_ids: list[str]
) -> dict[str, int]:
    """What is paid in our rows: in these hours, or by one of these sessions."""
    by_time = await queries.list_paid_between(conn, start, end)
    by_session = await queries.list_paid_by_session(conn, session_ids)
    return {each.session_id: each.amount_total for each in (*by_time, *by_session)}


async def log_and_continue(work: Awaitable[object], subject: object) -> None:
    """A provider's failure for one subject does not delay the others."""
    try:
        await work
    except (PaymentProviderError, RetryableError) as error:
        log.warning("payment.waits", subject=str(subject), reason=str(error))
