"""SQL of disputes and of banks' warnings of fraud, as admins see them."""

import uuid
from datetime import datetime
from typing import Final

import msgspec

from core.db import Connection, fetch_all, fetch_one
from core.payments.provider import FraudWarning
from core.payments.types import OrderDispute, OrderFraudWarning

_DISPUTE: Final = """
select dispute_id, order_id, disputes.user_id,
  coalesce(disputes.provider_payment_id, orders.provider_payment_id) as provider_payment_id,
  amount, orders.currency, disputes.state, reason, is_answer_due, evidence_due_at,
  acknowledged_at, disputes.created_at, disputes.updated_at
from app.payment_disputes as disputes
join app.orders on orders.id = disputes.order_id
"""
_WARNING: Final = """
select warning_id, order_id, warnings.user_id,
  coalesce(warnings.provider_payment_id, orders.provider_payment_id) as provider_payment_id,
  fraud_type, is_actionable,
  is_actionable and acknowledged_at is null
    and orders.state in ('paid', 'partially_refunded', 'review') as is_open,
  greatest(0, coalesce(orders.amount_total, 0) - orders.amount_returned) as amount_left,
  orders.currency, acknowledged_at, warnings.created_at, warnings.updated_at
from app.fraud_warnings as warnings
join app.orders on orders.id = warnings.order_id
"""
_WARNINGS: Final = f"with warnings as ({_WARNING}) select * from warnings"  # noqa: S608  ours


async def list_disputes(
    conn: Connection,
    *,
    unanswered_only: bool,
    user_id: uuid.UUID | None,
    order_id: uuid.UUID | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[OrderDispute]:
    at, dispute_id = before or (None, None)
    rows = await fetch_all(
        conn,
        f"""{_DISPUTE}
        where (not %(unanswered_only)s or (disputes.state in ('inquiry', 'open')
            and is_answer_due and acknowledged_at is null))
          and (%(user_id)s::uuid is null or disputes.user_id = %(user_id)s)
          and (%(order_id)s::uuid is null or order_id = %(order_id)s)
          and (%(before)s::timestamptz is null
            or (disputes.created_at, dispute_id) < (%(before)s, %(before_id)s))
        order by disputes.created_at desc, dispute_id desc
        limit %(limit)s""",
        {
            "unanswered_only": unanswered_only,
            "user_id": user_id,
            "order_id": order_id,
            "before": at,
            "before_id": dispute_id,
            "limit": limit,
        },
    )
    return msgspec.convert(rows, list[OrderDispute])


async def find_dispute(conn: Connection, dispute_id: str) -> OrderDispute | None:
    row = await fetch_one(conn, f"{_DISPUTE} where dispute_id = %s", (dispute_id,))
    return msgspec.convert(row, OrderDispute) if row else None


async def acknowledge_dispute(conn: Connection, dispute_id: str, reason: str) -> None:
    await conn.execute("select app.acknowledge_dispute(%s, %s)", (dispute_id, reason))


async def list_fraud_warnings(
    conn: Connection,
    *,
    open_only: bool,
    user_id: uuid.UUID | None,
    order_id: uuid.UUID | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[OrderFraudWarning]:
    at, warning_id = before or (None, None)
    rows = await fetch_all(
        conn,
        f"""{_WARNINGS}
        where (not %(open_only)s or is_open)
          and (%(user_id)s::uuid is null or user_id = %(user_id)s)
          and (%(order_id)s::uuid is null or order_id = %(order_id)s)
          and (%(before)s::timestamptz is null
            or (created_at, warning_id) < (%(before)s, %(before_id)s))
        order by created_at desc, warning_id desc
        limit %(limit)s""",
        {
            "open_only": open_only,
            "user_id": user_id,
            "order_id": order_id,
            "before": at,
            "before_id": warning_id,
            "limit": limit,
        },
    )
    return msgspec.convert(rows, list[OrderFraudWarning])


async def find_fraud_warning(conn: Connection, warning_id: str) -> OrderFraudWarning | None:
    row = await fetch_one(conn, f"{_WARNING} where warning_id = %s", (warning_id,))
    return msgspec.convert(row, OrderFraudWarning) if row else None


async def record_fraud_warning(
    conn: Connection, warning: FraudWarning, order_id: uuid.UUID
) -> None:
    await conn.execute(
        "select app.record_fraud_warning(%s, %s, %s, %s, %s, %s)",
        (
            warning.id,
            order_id,
            warning.payment_id,
            warning.fraud_type,
            warning.is_actionable,
            warning.created_at,
        ),
    )


async def acknowledge_fraud_warning(conn: Connection, warning_id: str, reason: str) -> None:
    await conn.execute("select app.acknowledge_fraud_warning(%s, %s)", (warning_id, reason))
