"""Giving money back: our row and its credits first, then Stripe, then one look at the order."""

import uuid
from typing import Any, Final

import msgspec
import structlog

from core.db import Connection, Database, fetch_one
from core.errors import FailureKind, NotFoundError, RetryableError
from core.payments import queries
from core.payments.stripe.client import (
    StripeGateway,
    StripeKeyReusedError,
    StripeRefusedError,
    StripeServerError,
)
from core.payments.sync import sync_order
from core.payments.types import Order, Refund, RefundState

log = structlog.get_logger()

_REQUEST_ID: Final = "refund_request_id"


async def request_refund(
    conn: Connection,
    refund_id: uuid.UUID,
    order_id: uuid.UUID,
    *,
    credits_: int | None,
    reason: str | None,
) -> Refund:
    """The buyer gives unused credits back, by default all of the order's. Runs as the user.

    Raises: NotFoundError, ConflictError, InvalidInputError, NoIdentityError.
    """
    await conn.execute(
        "select app.request_refund(%s, %s, %s, %s)", (refund_id, order_id, credits_, reason)
    )
    return await get_refund(conn, refund_id)


async def admin_refund(
    conn: Connection,
    refund_id: uuid.UUID,
    order_id: uuid.UUID,
    *,
    amount: int | None,
    reason: str,
    key: str,
) -> Refund:
    """An admin gives back any amount, by default all that is left; audited. Runs as the admin.

    Raises: NotAllowedError, NotFoundError, ConflictError, InvalidInputError,
    IdempotencyMismatchError. Replay: the same key and terms return the same refund.
    """
    row = await fetch_one(
        conn,
        "select app.admin_refund(%s, %s, %s, %s, %s) as id",
        (refund_id, order_id, amount, reason, key),
    )
    assert row is not None
    return await get_refund(conn, row["id"])


async def get_refund(conn: Connection, refund_id: uuid.UUID) -> Refund:
    """Raises: NotFoundError, also for another's refund."""
    row = await queries.find_refund(conn, refund_id)
    if row is None:
        raise NotFoundError(kind="refund")
    return msgspec.convert(row, Refund)


async def create_refund(
    db: Database,
    gateway: StripeGateway,
    refund_id: uuid.UUID,
    *,
    lease_token: uuid.UUID | None = None,
) -> None:
    """Make a requested refund at Stripe, at most once, and look at its order. For the worker.

    Raises: NotFoundError, StripeError, RetryableError, LeaseLostError.
    Replay: a refund that Stripe has is found by our id in its metadata and not made again.
    """

    async def load(conn: Connection) -> tuple[Refund, dict[str, Any] | None]:
        refund = await get_refund(conn, refund_id)
        return refund, await queries.find_order(conn, refund.order_id)

    refund, row = await db.run(load)
    order = msgspec.convert(row, Order)
    if refund.state is RefundState.REQUESTED and order.payment_intent is not None:
        try:
            await _ensure_made(db, gateway, refund, order.payment_intent)
        except StripeRefusedError as error:
            log.warning("refund.refused", refund_id=str(refund_id), reason=error.reason)
            reason = error.reason
            await db.run(lambda conn: _refuse(conn, refund_id, reason))
    await sync_order(db, gateway, order.id, lease_token=lease_token)


async def _ensure_made(
    db: Database, gateway: StripeGateway, refund: Refund, payment_intent: str
) -> None:
    for known in await gateway.list_refunds(payment_intent):
        if known.metadata.get(_REQUEST_ID) == str(refund.id):
            return
    params = {
        "payment_intent": payment_intent,
        "amount": refund.amount,
        "reason": "requested_by_customer",
        "metadata": {_REQUEST_ID: str(refund.id), "order_id": str(refund.order_id)},
    }
    try:
        await gateway.create_refund(params, key=f"refund:{refund.id}:{refund.attempt}")
    except (StripeServerError, StripeKeyReusedError) as error:
        await db.run(lambda conn: _next_attempt(conn, refund))
        is_absent = isinstance(error, StripeServerError)
        kind = FailureKind.ABSENT if is_absent else FailureKind.ERROR
        raise RetryableError("refund_not_answered", kind=kind) from error


async def _refuse(conn: Connection, refund_id: uuid.UUID, reason: str) -> None:
    await conn.execute("select app.refuse_refund(%s, %s, null)", (refund_id, reason))


async def _next_attempt(conn: Connection, refund: Refund) -> None:
    await conn.execute("select app.next_refund_attempt(%s, %s)", (refund.id, refund.attempt))
