"""Jobs of payments: each asks the provider and writes down what it says; see core/payments."""

import contextlib
import functools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

import structlog

from core.db import Database
from core.errors import FailureKind, RetryableError
from core.payments import catch_up
from core.payments.provider import PaymentProviderError, ProviderCredentialsError
from core.payments.returns import create_return
from core.payments.stripe import events, handle
from core.payments.stripe.client import StripeClient
from core.payments.sync import sync_order
from core.tasks import outbox
from core.tasks.outbox import Task
from worker.context import WorkerContext

log = structlog.get_logger()

# Without a key nobody can be asked; the tasks wait for a process that has one.
_NO_KEY_RETRY_SECONDS = 60


async def sync(ctx: WorkerContext, task: Task) -> None:
    """`payment.sync` {order_id}"""
    with _provider(ctx) as provider:
        await sync_order(
            ctx.db, provider, uuid.UUID(task.args["order_id"]), lease_token=task.lease_token
        )


async def handle_event(ctx: WorkerContext, task: Task) -> None:
    """`stripe_event.handle` {event_id}"""
    with _provider(ctx) as provider:
        await handle.handle_event(
            ctx.db, provider, task.args["event_id"], lease_token=task.lease_token
        )


async def make_return(ctx: WorkerContext, task: Task) -> None:
    """`refund.create` {refund_id}"""
    with _provider(ctx) as provider:
        await create_return(
            ctx.db, provider, uuid.UUID(task.args["refund_id"]), lease_token=task.lease_token
        )


async def sync_unsettled(ctx: WorkerContext, task: Task) -> None:
    """`payments.sync_unsettled` {}"""

    async def heal(db: Database, client: StripeClient) -> None:
        await catch_up.sync_unsettled(db, client)
        await handle.handle_stranded(db, client)

    await _scheduled(ctx, task, heal)


async def sync_completed(ctx: WorkerContext, task: Task) -> None:
    """`payments.sync_completed` {}"""
    await _scheduled(ctx, task, catch_up.sync_completed)


async def fetch_events(ctx: WorkerContext, task: Task) -> None:
    """`payments.fetch_events` {}"""
    await _scheduled(ctx, task, handle.fetch_missed)


async def compare_day(ctx: WorkerContext, task: Task) -> None:
    """`payments.compare_day` {}: yesterday, by UTC."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    await _scheduled(ctx, task, functools.partial(catch_up.compare_day, day=yesterday))


async def prune_events(ctx: WorkerContext, task: Task) -> None:
    """`payments.prune_events` {}"""
    pruned = await ctx.db.run(lambda conn: events.prune(conn, lease_token=task.lease_token))
    if pruned:
        log.info("stripe_events.pruned", count=pruned)


@contextlib.contextmanager
def _provider(ctx: WorkerContext) -> Iterator[StripeClient]:
    """The provider; whatever it answers that is not an outcome is tried again later."""
    if ctx.payments is None:
        raise RetryableError(
            "no_stripe_key", kind=FailureKind.ABSENT, retry_after_seconds=_NO_KEY_RETRY_SECONDS
        )
    try:
        yield ctx.payments
    except PaymentProviderError as error:
        if isinstance(error, ProviderCredentialsError):
            log.critical("stripe.credentials", hint="STRIPE_SECRET_KEY is wrong or may not do this")
        reason = f"payment provider: {error.reason}"
        raise RetryableError(reason, kind=error.failure_kind) from error


async def _scheduled(
    ctx: WorkerContext, task: Task, work: Callable[[Database, StripeClient], Awaitable[object]]
) -> None:
    """What the schedule wants done; where nothing is sold there is nothing to do."""
    if ctx.payments is not None:
        with _provider(ctx) as provider:
            await work(ctx.db, provider)
    await ctx.db.run(lambda conn: outbox.complete(conn, task.lease_token))
