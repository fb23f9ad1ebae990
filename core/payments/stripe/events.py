"""The log of Stripe's events: what was received, whether it was handled, and the outcome.

An event only says that an order has to be synced. What is done follows from Stripe's present
state, so duplicates, disorder and replays are harmless. `handle.py` does it.
"""

import uuid
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_all, fetch_one
from core.errors import NotFoundError
from core.payments.stripe.types import ReceivedEvent, StripeEvent

# A handled event holds a name and an address; Stripe itself lists events for as long.
KEPT_DAYS: Final = 30
SESSION_TYPES: Final = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
    }
)
REVERSAL_TYPES: Final = (
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)
WARNING_TYPES: Final = (
    "radar.early_fraud_warning.created",
    "radar.early_fraud_warning.updated",
)
NOTED_TYPES: Final = frozenset({"payment_intent.payment_failed"})
KNOWN_TYPES: Final = SESSION_TYPES | NOTED_TYPES | frozenset((*REVERSAL_TYPES, *WARNING_TYPES))

_EVENT: Final = """
select id, type, object_id, created, source, received_at, handled_at, outcome, order_id, replays
"""


async def receive(conn: Connection, event: ReceivedEvent) -> None:
    """Stores a verified event of a type that we handle, to be handled once."""
    if event.type in KNOWN_TYPES:
        await record(conn, event, source="webhook")


async def record(conn: Connection, event: ReceivedEvent, *, source: str) -> bool:
    """Stores an event to be handled; False where it is known already."""
    row = await fetch_one(
        conn,
        "select app.receive_stripe_event(%s, %s, %s, %s, %s, %s) as is_new",
        (event.id, event.type, event.object_id, event.created, Jsonb(event.payload), source),
    )
    assert row is not None
    is_new: bool = row["is_new"]
    return is_new


async def find_event(conn: Connection, event_id: str) -> StripeEvent | None:
    """With its payload."""
    row = await fetch_one(
        conn, f"{_EVENT}, payload from app.stripe_events where id = %s", (event_id,)
    )
    return msgspec.convert(row, StripeEvent) if row else None


async def get_event(conn: Connection, event_id: str) -> StripeEvent:
    """With its payload. Raises: NotFoundError."""
    event = await find_event(conn, event_id)
    if event is None:
        raise NotFoundError(kind="stripe_event")
    return event


async def list_events(
    conn: Connection,
    *,
    types: tuple[str, ...] = (),
    waiting_only: bool = False,
    order_id: uuid.UUID | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[StripeEvent]:
    """Newest first, without their payloads."""
    at, event_id = before or (None, None)
    rows = await fetch_all(
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
            "types": list(types),
            "waiting_only": waiting_only,
            "order_id": order_id,
            "before": at,
            "before_id": event_id,
            "limit": limit,
        },
    )
    return msgspec.convert(rows, list[StripeEvent])


async def list_stranded(conn: Connection, *, older_than_seconds: float, limit: int) -> list[str]:
    """Stored and not handled, with no task left that would handle them."""
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


async def finish(
    conn: Connection, event_id: str, outcome: str, *, order_id: uuid.UUID | None
) -> None:
    """Mark an event handled, in the transaction of its effect."""
    await conn.execute("select app.finish_stripe_event(%s, %s, %s)", (event_id, outcome, order_id))


async def replay(
    conn: Connection,
    *,
    ids: list[str] | None = None,
    received_from: Any = None,
    received_to: Any = None,
    types: list[str] | None = None,
    limit: int,
) -> list[str]:
    """Have events handled again; their ids. Audited. Runs as the admin.

    Raises: NotAllowedError.
    """
    rows = await fetch_all(
        conn,
        "select app.replay_stripe_events(%s, %s, %s, %s, %s) as id",
        (ids, received_from, received_to, types, limit),
    )
    return [row["id"] for row in rows]


async def prune(conn: Connection) -> int:
    """Delete what was handled more than KEPT_DAYS ago; how many."""
    row = await fetch_one(conn, "select app.prune_stripe_events(%s) as pruned", (KEPT_DAYS,))
    assert row is not None
    return int(row["pruned"])
