"""SQL of packs, orders and returns: structs in, structs out. Row level security decides whose rows
are seen.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, datetime
from typing import Any, Final

import msgspec
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_all, fetch_one
from core.payments.fetch import FetchedState, KnownSession, OrderSnapshot
from core.payments.types import (
    DayDifference,
    Order,
    OrderFilters,
    Pack,
    PaidSession,
    Synced,
)

OfOrder = Callable[[Connection, Order], Awaitable[Order]]

# Also of functions that return an order, because their callers may not read the table.
_ORDER_COLUMNS: Final = """
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_returned,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.provider_payment_id,
  orders.amount_total, orders.failure_reason, orders.review_reason, orders.invoice_id,
  orders.invoice_url, orders.invoice_pdf_url, orders.receipt_url, orders.paid_at,
  orders.payment_method, orders.review_decision, orders.review_session_id,
  packs.is_active as is_on_sale
"""
_WITH_PACK: Final = """
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version
"""
ORDER: Final = f"{_ORDER_COLUMNS} from app.orders {_WITH_PACK}"


def page_params(before: tuple[datetime, uuid.UUID] | None, limit: int) -> dict[str, Any]:
    at, row_id = before or (None, None)
    return {"before": at, "before_id": row_id, "limit": limit}


# --- packs and customers ----------------------------------------------------------------------


async def list_packs(conn: Connection) -> list[Pack]:
    rows = await fetch_all(
        conn,
        "select slug, version, title, credits, unit_amount, currency, lookup_key"
        " from app.packs where is_active order by credits",
    )
    return msgspec.convert(rows, list[Pack])


async def find_customer(conn: Connection, user_id: uuid.UUID) -> str | None:
    row = await fetch_one(
        conn, "select customer_id from app.payment_customers where user_id = %s", (user_id,)
    )
    return row["customer_id"] if row else None


async def record_customer(
    conn: Connection, user_id: uuid.UUID, customer_id: str, *, replaces: str | None
) -> str:
    row = await fetch_one(
        conn,
        "select app.record_customer(%s, %s, %s) as customer_id",
        (user_id, customer_id, replaces),
    )
    assert row is not None
    return str(row["customer_id"])


# --- orders -----------------------------------------------------------------------------------


async def find_order(conn: Connection, order_id: uuid.UUID) -> Order | None:
    row = await fetch_one(conn, f"{ORDER} where orders.id = %s", (order_id,))
    return msgspec.convert(row, Order) if row else None


async def find_order_by_session(conn: Connection, session_id: str) -> uuid.UUID | None:
    row = await fetch_one(
        conn, "select order_id from app.order_sessions where session_id = %s", (session_id,)
    )
    return row["order_id"] if row else None


async def find_order_by_payment(conn: Connection, provider_payment_id: str) -> uuid.UUID | None:
    row = await fetch_one(
        conn,
        "select id from app.orders where provider_payment_id = %(id)s"
        " union all"
        " select order_id from app.order_payments where provider_payment_id = %(id)s limit 1",
        {"id": provider_payment_id},
    )
    return row["id"] if row else None


async def list_orders(
    conn: Connection,
    filters: OrderFilters,
    *,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Order]:
    rows = await fetch_all(
        conn,
        f"""{ORDER}
        where (%(states)s::text[] = '{{}}' or orders.state = any (%(states)s))
          and (%(user_id)s::uuid is null or orders.user_id = %(user_id)s)
          and (not %(in_review)s or orders.review_reason is not null)
          and (not %(with_invoice)s or orders.invoice_id is not null)
          and (%(before)s::timestamptz is null
            or (orders.created_at, orders.id) < (%(before)s, %(before_id)s))
        order by orders.created_at desc, orders.id desc
        limit %(limit)s""",
        {
            "states": [state.value for state in filters.states],
            "user_id": filters.user_id,
            "in_review": filters.in_review,
            "with_invoice": filters.with_invoice,
            **page_params(before, limit),
        },
    )
    return msgspec.convert(rows, list[Order])


async def start_order(conn: Connection, order_id: uuid.UUID, pack: str) -> uuid.UUID:
    row = await fetch_one(conn, "select app.start_order(%s, %s) as id", (order_id, pack))
    assert row is not None
    started: uuid.UUID = row["id"]
    return started


async def record_session(
    conn: Connection,
    order: Order,
    *,
    session_id: str,
    url: str | None,
    price_id: str,
    customer_id: str,
) -> Order:
    """The order as it is with the session."""
    row = await fetch_one(
        conn,
        f"{_ORDER_COLUMNS} from app.record_session(%s, %s, %s, %s, %s, %s) as orders {_WITH_PACK}",
        (order.id, order.attempt, session_id, url, price_id, customer_id),
    )
    return msgspec.convert(row, Order)


async def next_attempt(conn: Connection, order: Order) -> Order:
    """The order as it is, for a call under a new key."""
    row = await fetch_one(
        conn,
        f"{_ORDER_COLUMNS} from app.next_attempt(%s, %s) as orders {_WITH_PACK}",
        (order.id, order.attempt),
    )
    return msgspec.convert(row, Order)


async def renew_attempt(conn: Connection, order: Order) -> Order:
    """As next_attempt, with more time for the page."""
    row = await fetch_one(
        conn,
        f"{_ORDER_COLUMNS} from app.renew_attempt(%s, %s) as orders {_WITH_PACK}",
        (order.id, order.attempt),
    )
    return msgspec.convert(row, Order)


async def end_attempt(conn: Connection, order: Order, reason: str) -> None:
    await conn.execute("select app.end_attempt(%s, %s, %s)", (order.id, order.attempt, reason))


async def continue_order(conn: Connection, order_id: uuid.UUID) -> None:
    await conn.execute("select app.continue_order(%s)", (order_id,))


async def list_open_pages(conn: Connection, user_id: uuid.UUID) -> list[tuple[uuid.UUID, str]]:
    """Orders of a buyer whose page can be paid, with its session."""
    rows = await fetch_all(
        conn,
        "select id, session_id from app.orders"
        " where user_id = %s and state = 'open' and session_id is not null order by id",
        (user_id,),
    )
    return [(row["id"], row["session_id"]) for row in rows]


async def note_provider_key(conn: Connection, *, is_refused: bool) -> None:
    await conn.execute("select app.note_provider_key(%s)", (is_refused,))


async def retry_order(conn: Connection, order: Order) -> None:
    await conn.execute("select app.retry_order(%s, %s)", (order.id, order.attempt))


async def request_sync(conn: Connection, order_id: uuid.UUID) -> None:
    await conn.execute("select app.request_order_sync(%s)", (order_id,))


# --- the state of an order at the provider ------------------------------------------------------


async def find_snapshot(conn: Connection, order_id: uuid.UUID) -> OrderSnapshot | None:
    """The order, its sessions with their attempts, and the database's time before the fetch."""
    fetch_started_at = await read_clock(conn)
    order = await find_order(conn, order_id)
    if order is None:
        return None
    sessions = await fetch_all(
        conn,
        "select session_id, attempt, price_id from app.order_sessions where order_id = %s"
        " order by attempt, created_at",
        (order_id,),
    )
    return OrderSnapshot(
        order,
        {row["session_id"]: KnownSession(row["attempt"], row["price_id"]) for row in sessions},
        await find_customer(conn, order.user_id),
        fetch_started_at,
    )


async def read_clock(conn: Connection) -> datetime:
    """The database's time."""
    row = await fetch_one(conn, "select app.clock_now() as now")
    assert row is not None
    now: datetime = row["now"]
    return now


async def write_state(
    conn: Connection,
    snapshot: OrderSnapshot,
    fetched: FetchedState,
) -> Synced | None:
    """What was changed, or None: the order has moved on since the snapshot."""
    row = await fetch_one(
        conn,
        "select app.sync_order(%s, %s, %s, %s) as result",
        (
            snapshot.order.id,
            snapshot.order.version,
            snapshot.fetch_started_at,
            Jsonb(msgspec.to_builtins(fetched)),
        ),
    )
    assert row is not None
    return msgspec.convert(row["result"], Synced) if row["result"] else None


async def take_unsettled(
    conn: Connection, *, older_than_seconds: float, tried_before: datetime, limit: int
) -> list[uuid.UUID]:
    """Orders that wait for the provider, those that were tried longest ago; now they are tried."""
    rows = await fetch_all(
        conn,
        "select app.take_unsettled_orders(%s, %s, %s) as id",
        (older_than_seconds, tried_before, limit),
    )
    return [row["id"] for row in rows]


# --- the totals of a day ------------------------------------------------------------------------


async def list_paid_by_session(conn: Connection, session_ids: list[str]) -> list[PaidSession]:
    """Of these sessions, those that we know to be paid: by their order, beside it, or in review."""
    rows = await fetch_all(
        conn,
        "select session_id, amount_total from app.orders"
        " where session_id = any (%(ids)s)"
        "   and (paid_at is not null"
        "     or failure_reason in ('refunded_in_review', 'rejected_in_review'))"
        " union all"
        " select session_id, amount_total from app.order_payments where session_id = any (%(ids)s)",
        {"ids": session_ids},
    )
    return msgspec.convert(rows, list[PaidSession])


async def list_paid_between(conn: Connection, start: datetime, end: datetime) -> list[PaidSession]:
    """Orders whose paid session was made in the range."""
    rows = await fetch_all(
        conn,
        "select session_id, amount_total from app.orders"
        " where paid_at is not null and attempted_at >= %s and attempted_at < %s",
        (start, end),
    )
    return msgspec.convert(rows, list[PaidSession])


async def list_orders_by_payment(conn: Connection, payment_ids: list[str]) -> dict[str, uuid.UUID]:
    """Which of these payments are of an order of ours, and of which."""
    rows = await fetch_all(
        conn,
        "select provider_payment_id, id as order_id from app.orders"
        " where provider_payment_id = any (%(ids)s)"
        " union all"
        " select provider_payment_id, order_id from app.order_payments"
        " where provider_payment_id = any (%(ids)s)",
        {"ids": payment_ids},
    )
    return {row["provider_payment_id"]: row["order_id"] for row in rows}


async def list_differing_days(conn: Connection, since: date) -> list[date]:
    rows = await fetch_all(
        conn, "select day from app.payment_days where differing <> '[]' and day >= %s", (since,)
    )
    return [row["day"] for row in rows]


async def record_day(
    conn: Connection,
    day: date,
    *,
    theirs: Sequence[int],
    ours: Sequence[int],
    differing: list[DayDifference],
) -> None:
    """`theirs` and `ours` are the totals of the sessions that are paid on either side."""
    await conn.execute(
        "select app.record_payment_day(%s, %s, %s, %s, %s, %s)",
        (
            day,
            len(theirs),
            sum(theirs),
            len(ours),
            sum(ours),
            Jsonb(msgspec.to_builtins(differing)),
        ),
    )
