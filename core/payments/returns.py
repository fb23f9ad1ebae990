"""Returns of money: our row and its credits first, then the provider, then a sync of the order.

On the wire and in what buyers read a return of money is called a refund. In this code a refund is
credits that come back to a reservation's owner.
"""

import uuid
from datetime import datetime

import structlog

from core.db import Connection, Database
from core.errors import NotFoundError, RetryableError
from core.payments import return_queries, service
from core.payments.provider import (
    PaymentProvider,
    ProviderKeyReusedError,
    ProviderRefusedError,
    ProviderServerError,
    ReturnRequest,
)
from core.payments.sync import sync_order
from core.payments.types import Order, OrderPayment, Return, ReturnState

log = structlog.get_logger()


async def request_return(
    conn: Connection,
    return_id: uuid.UUID,
    order_id: uuid.UUID,
    *,
    credits_: int | None,
    reason: str | None,
    is_distinct: bool = False,
) -> Return:
    """The buyer returns unused credits for money, by default all of the order's. Runs as the user.

    Raises: NotFoundError, ConflictError, InvalidInputError, NoIdentityError, QuotaError.
    Replay: as many credits of the order again, before the first are at the provider, is a second
    click and answers the first return, unless `is_distinct`: the caller has a key for each.
    """
    known_id = await return_queries.request_return(
        conn, return_id, order_id, credits_=credits_, reason=reason, is_distinct=is_distinct
    )
    return await get_return(conn, known_id)


async def admin_return(
    conn: Connection,
    return_id: uuid.UUID,
    order_id: uuid.UUID,
    *,
    amount: int | None,
    reason: str,
    key: str,
    payment_id: str | None = None,
) -> Return:
    """An admin returns any amount, by default all that is left; audited. Runs as the admin. Of an
    order that was paid twice it is the payment that nothing was given for, unless `payment_id`
    names the other.

    Raises: NotAllowedError, NotFoundError, ConflictError, InvalidInputError,
    IdempotencyMismatchError. Replay: the same key and terms find the same return.
    """
    known_id = await return_queries.admin_return(
        conn, return_id, order_id, amount=amount, reason=reason, key=key, payment_id=payment_id
    )
    return await get_return(conn, known_id)


async def get_return(conn: Connection, return_id: uuid.UUID) -> Return:
    """Raises: NotFoundError, also for another's return."""
    found = await return_queries.find_return(conn, return_id)
    if found is None:
        raise NotFoundError(kind="refund")
    return found


async def list_returns(
    conn: Connection,
    *,
    order_id: uuid.UUID | None = None,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Return]:
    """Newest first."""
    return await return_queries.list_returns(conn, order_id=order_id, before=before, limit=limit)


async def list_other_payments(conn: Connection, order_id: uuid.UUID) -> list[OrderPayment]:
    """Payments of an order beside that which it was granted for."""
    return await return_queries.list_other_payments(conn, order_id)


async def create_return(db: Database, provider: PaymentProvider, return_id: uuid.UUID) -> None:
    """Make a requested return at the provider, at most once, and sync its order. For the worker.

    Raises: NotFoundError, PaymentProviderError, RetryableError.
    Replay: a return that the provider has is found by our id and not made again.
    """

    async def load(conn: Connection) -> tuple[Return, Order]:
        asked = await get_return(conn, return_id)
        return asked, await service.get_order(conn, asked.order_id)

    asked, order = await db.run(load)
    payment_id = asked.provider_payment_id or order.provider_payment_id
    if asked.state is ReturnState.REQUESTED and payment_id is not None:
        try:
            await _ensure_made(db, provider, asked, payment_id)
        except ProviderRefusedError as error:
            reason = error.reason
            log.warning("payment.return_refused", return_id=str(return_id), reason=reason)
            await db.run(lambda conn: return_queries.refuse_return(conn, return_id, reason))
    await sync_order(db, provider, order.id)


async def _ensure_made(
    db: Database, provider: PaymentProvider, asked: Return, payment_id: str
) -> None:
    made = await provider.list_returns(payment_id)
    if any(each.return_id == asked.id for each in made):
        return
    request = ReturnRequest(
        return_id=asked.id, order_id=asked.order_id, payment_id=payment_id, amount=asked.amount
    )
    try:
        await provider.create_return(request, key=f"return:{asked.id}:{asked.attempt}")
    except (ProviderServerError, ProviderKeyReusedError) as error:
        await db.run(lambda conn: return_queries.next_return_attempt(conn, asked))
        raise RetryableError("return_not_answered", kind=error.failure_kind) from error
