"""Disputes and banks' warnings of fraud: what admins see of them, and that they have seen them.

Evidence is given in the provider's dashboard; a dispute without an answer in time is lost.
"""

import uuid
from datetime import datetime

from core.db import Connection
from core.errors import NotFoundError
from core.payments import dispute_queries
from core.payments.types import OrderDispute, OrderFraudWarning


async def list_disputes(
    conn: Connection,
    *,
    unanswered_only: bool = False,
    user_id: uuid.UUID | None = None,
    order_id: uuid.UUID | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[OrderDispute]:
    """Newest first. `unanswered_only`: the bank waits for an answer, and no admin has seen it."""
    return await dispute_queries.list_disputes(
        conn,
        unanswered_only=unanswered_only,
        user_id=user_id,
        order_id=order_id,
        before=before,
        limit=limit,
    )


async def acknowledge_dispute(conn: Connection, dispute_id: str, *, reason: str) -> OrderDispute:
    """It alarms no more. Audited. Runs as the admin. Raises: NotAllowedError, NotFoundError."""
    await dispute_queries.acknowledge_dispute(conn, dispute_id, reason)
    found = await dispute_queries.find_dispute(conn, dispute_id)
    if found is None:
        raise NotFoundError(kind="dispute")
    return found


async def list_fraud_warnings(
    conn: Connection,
    *,
    open_only: bool = False,
    user_id: uuid.UUID | None = None,
    order_id: uuid.UUID | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[OrderFraudWarning]:
    """Newest first. `open_only`: a full refund would still avoid the dispute."""
    return await dispute_queries.list_fraud_warnings(
        conn, open_only=open_only, user_id=user_id, order_id=order_id, before=before, limit=limit
    )


async def acknowledge_fraud_warning(
    conn: Connection, warning_id: str, *, reason: str
) -> OrderFraudWarning:
    """It alarms no more. Audited. Runs as the admin. Raises: NotAllowedError, NotFoundError."""
    await dispute_queries.acknowledge_fraud_warning(conn, warning_id, reason)
    found = await dispute_queries.find_fraud_warning(conn, warning_id)
    if found is None:
        raise NotFoundError(kind="fraud_warning")
    return found
