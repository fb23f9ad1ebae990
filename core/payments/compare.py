"""The provider's records of a day against ours: a last look, after everything that repairs.

Fees are not compared: they are the provider's alone.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import msgspec
import structlog

from core.db import Connection, Database
from core.payments import queries, return_queries
from core.payments.catch_up import for_each
from core.payments.fetch import ON_ITS_WAY_BACK
from core.payments.provider import CheckoutSession, PaymentProvider
from core.payments.sync import sync_order
from core.payments.types import DayDifference

log = structlog.get_logger()

# What every session of ours was made with. Another product may have an order's id in its own.
_OURS: Final = frozenset({"order_id", "user_id", "pack"})
LOOKED_BACK_DAYS: Final = 7


async def compare_days(db: Database, provider: PaymentProvider, yesterday: date) -> None:
    """Yesterday, and the days of a week that still differ: one that was healed differs no more."""
    oldest = yesterday - timedelta(days=LOOKED_BACK_DAYS)
    differing = await db.run(lambda conn: queries.list_differing_days(conn, oldest))
    for day in sorted({*differing, yesterday}):
        await compare_day(db, provider, day)


async def compare_day(db: Database, provider: PaymentProvider, day: date) -> list[DayDifference]:
    """Every paid session, return and dispute that stands on one side only or with another amount;
    recorded, and an alarm. What of returns and disputes is missing here is synced first.

    A day is that of the object's creation, UTC.
    """
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    theirs, ours = await _compare_sessions(db, provider, start, end)
    back_theirs, back_ours = await _compare_reversals(db, provider, start, end)
    differing = [*_differences(theirs, ours), *_differences(back_theirs, back_ours)]
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


def _differences(theirs: Mapping[str, int], ours: Mapping[str, int]) -> list[DayDifference]:
    return [
        DayDifference(key, theirs=theirs.get(key), ours=ours.get(key))
        for key in sorted({*ours, *theirs})
        if theirs.get(key) != ours.get(key)
    ]


async def _compare_sessions(
    db: Database, provider: PaymentProvider, start: datetime, end: datetime
) -> tuple[dict[str, int], dict[str, int]]:
    """The totals of paid sessions by their ids, the provider's and ours."""
    listed = provider.list_sessions(since=start, until=end, is_complete=True)
    theirs = {
        each.id: each.amount_total or 0 async for each in listed if each.is_paid and _is_ours(each)
    }
    ours = await db.run(lambda conn: _list_paid(conn, start, end, list(theirs)))
    for session_id in [key for key in ours if key not in theirs]:
        # An attempt and its session may lie on two sides of midnight.
        session = await provider.get_session(session_id)
        if session.is_paid and not start <= session.created_at < end:
            del ours[session_id]
    return theirs, ours


def _is_ours(session: CheckoutSession) -> bool:
    return (
        session.metadata.keys() >= _OURS and session.order_reference == session.metadata["order_id"]
    )


async def _list_paid(
    conn: Connection, start: datetime, end: datetime, session_ids: list[str]
) -> dict[str, int]:
    """What is paid in our rows: in these hours, or by one of these sessions."""
    by_time = await queries.list_paid_between(conn, start, end)
    by_session = await queries.list_paid_by_session(conn, session_ids)
    return {each.session_id: each.amount_total for each in (*by_time, *by_session)}


async def _compare_reversals(
    db: Database, provider: PaymentProvider, start: datetime, end: datetime
) -> tuple[dict[str, int], dict[str, int]]:
    """Returns and disputes of payments of ours, by their ids."""
    amounts: dict[str, int] = {}
    payments: dict[str, str] = {}
    async for back in provider.list_returns_between(start, end):
        amounts[back.id] = back.amount if back.state in ON_ITS_WAY_BACK else 0
        payments[back.id] = back.payment_id
    async for dispute in provider.list_disputes_between(start, end):
        amounts[dispute.id] = dispute.amount
        payments[dispute.id] = dispute.payment_id
    orders = await db.run(
        lambda conn: queries.list_orders_by_payment(conn, sorted(set(payments.values())))
    )
    theirs = {key: amount for key, amount in amounts.items() if payments[key] in orders}
    ours = await _list_reversals(db, theirs)
    missing = {orders[payments[row.id]] for row in _differences(theirs, ours)}
    if missing:
        log.warning("payment.reversals_found_by_list", count=len(missing))
        await for_each(sorted(missing), lambda order_id: sync_order(db, provider, order_id))
        ours = await _list_reversals(db, theirs)
    return theirs, ours


async def _list_reversals(db: Database, theirs: Mapping[str, int]) -> dict[str, int]:
    return await db.run(lambda conn: return_queries.list_reversals(conn, list(theirs)))
