"""SQL of money that goes back: returns, second payments, and decisions about reviews."""

import uuid
from datetime import datetime
from typing import Final

import msgspec

from core.db import Connection, fetch_all, fetch_one
from core.payments.queries import page_params
from core.payments.types import OrderPayment, Return, ReviewDecision

_RETURN: Final = """
select id, order_id, user_id, amount, currency, origin, reason, state, attempt,
  provider_payment_id, provider_return_id, failure_reason, created_at, updated_at
from app.payment_returns
"""


async def find_return(conn: Connection, return_id: uuid.UUID) -> Return | None:
    row = await fetch_one(conn, f"{_RETURN} where id = %s", (return_id,))
    return msgspec.convert(row, Return) if row else None


async def list_returns(
    conn: Connection,
    *,
    order_id: uuid.UUID | None,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Return]:
    rows = await fetch_all(
        conn,
        f"""{_RETURN}
        where (%(order_id)s::uuid is null or order_id = %(order_id)s)
          and (%(before)s::timestamptz is null
            or (created_at, id) < (%(before)s, %(before_id)s))
        order by created_at desc, id desc
        limit %(limit)s""",
        {"order_id": order_id, **page_params(before, limit)},
    )
    return msgspec.convert(rows, list[Return])


async def request_return(
    conn: Connection,
    return_id: uuid.UUID,
    order_id: uuid.UUID,
    *,
    credits_: int | None,
    reason: str | None,
    is_distinct: bool,
) -> uuid.UUID:
    """The return's id: another one where this is a second click."""
    row = await fetch_one(
        conn,
        "select app.request_return(%s, %s, %s, %s, %s) as id",
        (return_id, order_id, credits_, reason, is_distinct),
    )
    assert row is not None
    found: uuid.UUID = row["id"]
    return found


async def admin_return(
    conn: Connection,
    return_id: uuid.UUID,
    order_id: uuid.UUID,
    *,
    amount: int | None,
    reason: str,
    key: str,
    payment_id: str | None,
) -> uuid.UUID:
    row = await fetch_one(
        conn,
        "select app.admin_return(%s, %s, %s, %s, %s, %s) as id",
        (return_id, order_id, amount, reason, key, payment_id),
    )
    assert row is not None
    found: uuid.UUID = row["id"]
    return found


async def list_reversals(conn: Connection, ids: list[str]) -> dict[str, int]:
    """What we know of these returns and disputes of the provider: their amounts, 0 where a return
    has ended without success."""
    rows = await fetch_all(
        conn,
        "select provider_return_id as id,"
        "   case when state in ('failed', 'canceled', 'refused') then 0 else amount end as amount"
        " from app.payment_returns where provider_return_id = any (%(ids)s)"
        " union all"
        " select dispute_id, amount from app.payment_disputes where dispute_id = any (%(ids)s)",
        {"ids": ids},
    )
    return {row["id"]: row["amount"] for row in rows}


async def refuse_return(conn: Connection, return_id: uuid.UUID, reason: str) -> None:
    await conn.execute("select app.refuse_return(%s, %s)", (return_id, reason))


async def note_return(
    conn: Connection, return_id: uuid.UUID, *, note_id: str | None, refused: str | None = None
) -> None:
    await conn.execute("select app.note_return(%s, %s, %s)", (return_id, note_id, refused))


async def next_return_attempt(conn: Connection, asked: Return) -> None:
    await conn.execute("select app.next_return_attempt(%s, %s)", (asked.id, asked.attempt))


async def list_stranded_returns(
    conn: Connection, *, older_than_seconds: float, limit: int
) -> list[uuid.UUID]:
    """Requested and not at the provider, with no task left that would create it."""
    rows = await fetch_all(
        conn,
        "select id from app.payment_returns where state = 'requested'"
        " and created_at < app.now() - make_interval(secs => %s)"
        " and not exists (select from app.outbox where job = 'return.create'"
        "   and dedupe_key = payment_returns.id::text)"
        " order by created_at limit %s",
        (older_than_seconds, limit),
    )
    return [row["id"] for row in rows]


async def review_order(
    conn: Connection,
    order_id: uuid.UUID,
    decision: ReviewDecision,
    *,
    reason: str,
    return_id: uuid.UUID,
    key: str,
) -> None:
    await conn.execute(
        "select app.review_order(%s, %s, %s, %s, %s)",
        (order_id, decision, reason, return_id, key),
    )


async def list_other_payments(conn: Connection, order_id: uuid.UUID) -> list[OrderPayment]:
    rows = await fetch_all(
        conn,
        """select provider_payment_id, session_id, amount_total, coalesce((
            select sum(amount)
            from app.payment_returns
            where order_id = payments.order_id
              and provider_payment_id = payments.provider_payment_id
              and state in ('requested', 'pending', 'requires_action', 'succeeded')), 0)::bigint
            as amount_returned
        from app.order_payments as payments
        where order_id = %s
        order by created_at, provider_payment_id""",
        (order_id,),
    )
    return msgspec.convert(rows, list[OrderPayment])
