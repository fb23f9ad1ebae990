"""Repairs what lost webhooks, answers and sessions left undone; webhooks only make it faster."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import structlog

from core.db import Connection, Database, may_pass
from core.errors import RetryableError
from core.payments import queries, return_queries, service
from core.payments.keys import note_key
from core.payments.provider import (
    CheckoutSession,
    PaymentProvider,
    PaymentProviderError,
    ProviderCredentialsError,
)
from core.payments.returns import create_return
from core.payments.sync import sync_order

log = structlog.get_logger()

Subject = TypeVar("Subject")

SETTLED_AFTER_SECONDS: Final = 300
STRANDED_AFTER_SECONDS: Final = SETTLED_AFTER_SECONDS
LISTED_MAX: Final = 500
# Looks of one schedule at the same time. The provider allows 25 calls a second in test mode, and a
# look is some six. https://docs.stripe.com/rate-limits
AT_ONCE: Final = 4
CHUNK: Final = 20
# The next run goes on where this one stopped.
ROUND_SECONDS: Final = 480.0
COMPLETED_BACK: Final = timedelta(hours=48)


async def sync_unsettled(
    db: Database,
    provider: PaymentProvider,
    *,
    older_than_seconds: float = SETTLED_AFTER_SECONDS,
) -> int:
    """Syncs orders and makes returns that wait longer than they should; how many there were.

    That an order is looked at is written down before the look: whatever comes of it, the others
    are next.
    """
    older: dict[str, Any] = {"older_than_seconds": older_than_seconds}
    await _check_key(db, provider)
    orders = 0
    ends_at = time.monotonic() + ROUND_SECONDS
    round_began_at = await db.run(queries.read_clock)
    while time.monotonic() < ends_at:
        chunk = await db.run(
            lambda conn: queries.take_unsettled(
                conn, **older, tried_before=round_began_at, limit=CHUNK
            )
        )
        await for_each(chunk, lambda order_id: sync_order(db, provider, order_id))
        orders += len(chunk)
        if len(chunk) < CHUNK:
            break
    returns = await db.run(
        lambda conn: return_queries.list_stranded_returns(conn, **older, limit=LISTED_MAX)
    )
    await for_each(returns, lambda return_id: create_return(db, provider, return_id))
    return orders + len(returns)


async def _check_key(db: Database, provider: PaymentProvider) -> None:
    """Also where nothing is bought. Raises: ProviderCredentialsError."""
    try:
        await provider.check_key()
    except ProviderCredentialsError:
        raise
    except PaymentProviderError:
        return  # whatever else the provider has does not tell about our key
    await note_key(db, None)


async def sync_completed(
    db: Database, provider: PaymentProvider, *, back: timedelta = COMPLETED_BACK
) -> int:
    """Syncs orders whose session is paid at the provider but not here; how many there were."""
    listed = provider.list_sessions(since=datetime.now(UTC) - back, is_complete=True)
    paid = [each async for each in listed if each.is_paid]

    async def load_missed(conn: Connection) -> list[tuple[CheckoutSession, Any]]:
        known = await queries.list_paid_by_session(conn, [each.id for each in paid])
        ours = {each.session_id for each in known}
        return [
            (each, await service.find_order_id(conn, each.order_reference))
            for each in paid
            if each.id not in ours
        ]

    missed = [each for each in await db.run(load_missed) if each[1] is not None]

    async def sync(found: tuple[CheckoutSession, Any]) -> None:
        session, order_id = found
        log.warning("payment.found_by_list", order_id=str(order_id))
        await sync_order(db, provider, order_id, claimed_session_id=session.id)

    await for_each(missed, sync, name=lambda found: found[1])
    return len(missed)


async def for_each(
    subjects: Sequence[Subject],
    work: Callable[[Subject], Awaitable[object]],
    *,
    name: Callable[[Subject], object] = str,
) -> None:
    """A few at a time. What fails for one subject, foreseen or not, does not delay the others."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(subject: Subject) -> None:
        async with room:
            await _pass_over_failures(work(subject), name(subject))

    await asyncio.gather(*(one(subject) for subject in subjects))


async def _pass_over_failures(work: Awaitable[object], subject: object) -> None:
    try:
        await work
    except (PaymentProviderError, RetryableError) as error:
        log.warning("payment.waits", subject=str(subject), reason=str(error))
    except Exception as error:
        if may_pass(error):
            raise  # the database is unavailable, for the others as well
        log.exception("payment.look_failed", subject=str(subject))
