"""The ways out of review: an admin accepts the payment as right, or rejects it."""

import uuid

from core.db import Connection
from core.payments import return_queries, service
from core.payments.types import Order, ReviewDecision


async def decide(
    conn: Connection,
    order_id: uuid.UUID,
    decision: ReviewDecision,
    *,
    reason: str,
    return_id: uuid.UUID,
    key: str,
) -> Order:
    """The order as it is; what follows is a worker's: the credits of an accepted payment, the
    money of a rejected one. Audited. Runs as the admin.

    Raises: NotAllowedError, NotFoundError, ConflictError.
    """
    await return_queries.review_order(
        conn, order_id, decision, reason=reason, return_id=return_id, key=key
    )
    return await service.get_order(conn, order_id)
