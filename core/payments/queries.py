"""SQL of packs, orders, refunds and events. Row level security decides whose rows are seen."""

import uuid
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from core.db import Connection, fetch_all, fetch_one

_ORDER: Final = """
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_gone,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.payment_intent, orders.amount_total,
  orders.failure_reason, orders.review_reason, orders.invoice_id, orders.invoice_url,
  orders.invoice_pdf_url, orders.receipt_url, orders.paid_at
from app.orders
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version
"""
_REFUND: Final = """
select id, order_id, user_id, amount, currency, origin, reason, state, attempt, failure_reason,
  created_at, updated_at
from app.payment_refunds
"""
_EVENT: Final = """
select id, type, object_id, created, source, received_at, handled_at, outcome, order_id, replays
"""


def _page(before: tuple[datetime, object] | None, limit: int) -> dict[str, Any]:
    at, row_id = before or (None, None)
    return {"before": at, "before_id": row_id, "limit": limit}


async def list_packs(conn: Connection) -> list[dict[str, Any]]:
    return await fetch_all(
        conn,
        "select slug, version, title, credits, unit_amount, currency, lookup_key"
        " from app.packs where is_active order by credits",
    )


async def find_order(conn: Connection, order_id: uuid.UUID) -> dict[str, Any] | None:
    return await fetch_one(conn, f"{_ORDER} where orders.id = %s", (order_id,))


async def find_order_by_session(conn: Connection, session_id: str) -> uuid.UUID | None:
    row = await fetch_one(
        conn, "select order_id from app.order_sessions where session_id = %s", (session_id,)
    )
    return row["order_id"] if row else None


async def find_order_by_payment_intent(conn: Connection, payment_intent: str) -> uuid.UUID | None:
    row = await fetch_one(
        conn, "select id from app.orders where payment_intent = %s", (payment_intent,)
    )
    return row["id"] if row else None


async def begin_look(
    conn: Connection, order_id: uuid.UUID
) -> tuple[dict[str, Any] | None, list[dict[str, Any]], datetime]:
    """The order, its sessions with their attempts, and the database's time before the look."""
    clock = await fetch_one(conn, "select app.clock_now() as now")
    assert clock is not None
    order = await find_order(conn, order_id)
    sessions = await fetch_all(
        conn,
        "select session_id, attempt from app.order_sessions where order_id = %s"
        " order by attempt, created_at",
        (order_id,),
    )
    return order, sessions, clock["now"]


async def write_sync(
    conn: Connection,
    order_id: uuid.UUID,
    *,
    version: int,
    asked_at: datetime,
    facts: dict[str, Any],
    event_id: str | None,
    lease_token: uuid.UUID | None,
) -> dict[str, Any]:
    row = await fetch_one(
        conn,
        "select app.sync_order(%s, %s, %s, %s, %s, %s) as result",
        (order_id, version, asked_at, Jsonb(facts), event_id, lease_token),
    )
    assert row is not None
    result: dict[str, Any] = row["result"]
    return result


async def list_orders(
    conn: Connection,
    *,
    states: list[str],
    user_id: uuid.UUID | None,
    in_review: bool,
    with_invoice: bool,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Newest first; what the caller may see of it is up to row level security."""
    return await fetch_all(
        conn,
        f"""{_ORDER}
        where (%(states)s::text[] = '{{}}' or orders.state = any (%(states)s))
          and (%(user_id)s::uuid is null or orders.user_id = %(user_id)s)
          and (not %(in_review)s or orders.review_reason is not null)
          and (not %(with_invoice)s or orders.invoice_id is not null)
          and (%(before)s::timestamptz is null
            or (orders.created_at, orders.id) < (%(before)s, %(before_id)s))
        order by orders.created_at desc, orders.id desc
        limit %(limit)s""",
        {
            "states": states,
            "user_id": user_id,
            "in_review": in_review,
            "with_invoice": with_invoice,
            **_page(before, limit),
        },
    )


async def list_unsettled(
    conn: Connection, *, older_than_seconds: float, limit: int
) -> list[uuid.UUID]:
    """Orders that wait for Stripe: those longest not looked at first."""
    rows = await fetch_all(
        conn,
        "select id from app.orders where state in ('created', 'open', 'processing')"
        " and attempted_at < app.now() - make_interval(secs => %s)"
        " order by asked_at nulls first, attempted_at limit %s",
        (older_than_seconds, limit),
    )
    return [row["id"] for row in rows]


async def list_forgotten_refunds(
    conn: Connection, *, older_than_seconds: float, limit: int
) -> list[uuid.UUID]:
    """Asked for and not at Stripe, with no task left that would see to it."""
    rows = await fetch_all(
        conn,
        "select id from app.payment_refunds where state = 'requested'"
        " and created_at < app.now() - make_interval(secs => %s)"
        " and not exists (select from app.outbox where job = 'refund.create'"
        "   and dedupe_key = payment_refunds.id::text)"
        " order by created_at limit %s",
        (older_than_seconds, limit),
    )
    return [row["id"] for row in rows]


async def list_paid_by_session(conn: Connection, session_ids: list[str]) -> list[dict[str, Any]]:
    """Of these sessions, those whose order was paid by them: (session_id, amount_total)."""
    return await fetch_all(
        conn,
        "select session_id, amount_total from app.orders"
        " where paid_at is not null and session_id = any (%s)",
        (session_ids,),
    )


async def list_paid_between(
    conn: Connection, start: datetime, end: datetime
) -> list[dict[str, Any]]:
    """Orders whose paid session was made in the range: (session_id, amount_total)."""
    return await fetch_all(
        conn,
        "select orders.session_id, orders.amount_total from app.orders"
        " where orders.paid_at is not null and orders.attempted_at >= %s"
        " and orders.attempted_at < %s",
        (start, end),
    )


async def list_forgotten_events(
    conn: Connection, *, older_than_seconds: float, limit: int
) -> list[str]:
    """Kept and not handled, with no task left that would see to it."""
    rows = await fetch_all(
        conn,
        "select id from app.stripe_events where handled_at is null"
        " and received_at < app.now() - make_interval(secs => %s)"
        " and not exists (select from app.outbox where job = 'stripe_event.handle'"
        "   and dedupe_key = stripe_events.id)"
        " order by received_at limit %s",
        (older_than_seconds, limit),
    )
    return [row["id"] for row in rows]


async def find_refund(conn: Connection, refund_id: uuid.UUID) -> dict[str, Any] | None:
    return await fetch_one(conn, f"{_REFUND} where id = %s", (refund_id,))


async def list_refunds(
    conn: Connection,
    *,
    order_id: uuid.UUID | None,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[dict[str, Any]]:
    return await fetch_all(
        conn,
        f"""{_REFUND}
        where (%(order_id)s::uuid is null or order_id = %(order_id)s)
          and (%(before)s::timestamptz is null
            or (created_at, id) < (%(before)s, %(before_id)s))
        order by created_at desc, id desc
        limit %(limit)s""",
        {
            "order_id": order_id,
            **_page(before, limit),
        },
    )


async def find_customer(conn: Connection, user_id: uuid.UUID) -> str | None:
    row = await fetch_one(
        conn, "select customer_id from app.stripe_customers where user_id = %s", (user_id,)
    )
    return row["customer_id"] if row else None


async def find_event(conn: Connection, event_id: str) -> dict[str, Any] | None:
    return await fetch_one(
        conn, f"{_EVENT}, payload from app.stripe_events where id = %s", (event_id,)
    )


async def list_events(
    conn: Connection,
    *,
    types: list[str],
    waiting_only: bool,
    order_id: uuid.UUID | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[dict[str, Any]]:
    return await fetch_all(
        conn,
        f"""{_EVENT}
        from app.stripe_events
        where (%(types)s::text[] = '{{}}' or type = any (%(types)s))
          and (not %(waiting_only)s or handled_at is null)
          and (%(order_id)s::uuid is null or order_id = %(order_id)s)
          and (%(before)s::timestamptz is null
            or (received_at, id) < (%(before)s, %(before_id)s))
        order by received_at desc, id desc
        limit %(limit)s""",
        {
            "types": types,
            "waiting_only": waiting_only,
            "order_id": order_id,
            **_page(before, limit),
        },
    )


async def receive_event(conn: Connection, event: dict[str, Any], source: str) -> uuid.UUID | None:
    """The task that handles it, or None: we have this event already."""
    found = event.get("data", {}).get("object", {})
    row = await fetch_one(
        conn,
        "select app.receive_stripe_event(%s, %s, %s, %s, %s, %s) as task_id",
        (event["id"], event["type"], found.get("id"), event["created"], Jsonb(event), source),
    )
    assert row is not None
    task_id: uuid.UUID | None = row["task_id"]
    return task_id


async def finish_event(
    conn: Connection,
    event_id: str,
    outcome: str,
    order_id: uuid.UUID | None,
    lease: uuid.UUID | None,
) -> None:
    await conn.execute(
        "select app.finish_stripe_event(%s, %s, %s, %s)", (event_id, outcome, order_id, lease)
    )
