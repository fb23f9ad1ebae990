"""Jobs of payments: each asks Stripe and writes one look down; see core/payments."""

import contextlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import structlog

from core import outbox
from core.db import Connection
from core.errors import LeaseLostError, RetryableError
from core.outbox import Task
from core.payments import events, reconcile, refunds
from core.payments import sync as syncing
from core.payments.stripe import StripeCredentialsError, StripeError, StripeGateway
from core.work import WorkerContext

log = structlog.get_logger()

# Without a key nothing can be looked at; the tasks wait for a process that has one.
_NO_KEY_RETRY_SECONDS = 60


async def sync(ctx: WorkerContext, task: Task) -> None:
    """`payment.sync` {order_id}"""
    with _stripe(ctx) as gateway:
        await syncing.sync_order(
            ctx.db, gateway, uuid.UUID(task.args["order_id"]), lease_token=task.lease_token
        )


async def handle_event(ctx: WorkerContext, task: Task) -> None:
    """`stripe_event.handle` {event_id}"""
    with _stripe(ctx) as gateway:
        await events.handle(ctx.db, gateway, task.args["event_id"], lease_token=task.lease_token)


async def create_refund(ctx: WorkerContext, task: Task) -> None:
    """`refund.create` {refund_id}"""
    with _stripe(ctx) as gateway:
        await refunds.create_refund(
            ctx.db, gateway, uuid.UUID(task.args["refund_id"]), lease_token=task.lease_token
        )


async def sync_unsettled(ctx: WorkerContext, task: Task) -> None:
    """`payments.sync_unsettled` {}"""
    if ctx.payments is not None:
        with _stripe(ctx) as gateway:
            await reconcile.sync_unsettled(ctx.db, gateway)
    await _complete(ctx, task)


async def sync_completed(ctx: WorkerContext, task: Task) -> None:
    """`payments.sync_completed` {}"""
    if ctx.payments is not None:
        with _stripe(ctx) as gateway:
            await reconcile.sync_completed(ctx.db, gateway)
    await _complete(ctx, task)


async def fetch_events(ctx: WorkerContext, task: Task) -> None:
    """`payments.fetch_events` {}"""
    if ctx.payments is not None:
        with _stripe(ctx) as gateway:
            await reconcile.fetch_events(ctx.db, gateway)
    await _complete(ctx, task)


async def compare_day(ctx: WorkerContext, task: Task) -> None:
    """`payments.compare_day` {}: yesterday, by UTC."""
    if ctx.payments is not None:
        with _stripe(ctx) as gateway:
            yesterday = datetime.now(UTC).date() - timedelta(days=1)
            await reconcile.compare_day(ctx.db, gateway, yesterday)
    await _complete(ctx, task)


async def prune_events(ctx: WorkerContext, task: Task) -> None:
    """`payments.prune_events` {}"""
    pruned = await ctx.db.run(lambda conn: events.prune(conn, lease_token=task.lease_token))
    if pruned:
        log.info("stripe_events.pruned", count=pruned)


@contextlib.contextmanager
def _stripe(ctx: WorkerContext) -> Iterator[StripeGateway]:
    """The gateway; whatever Stripe answers that is not an outcome is tried again later."""
    if ctx.payments is None:
        raise RetryableError("no_stripe_key", retry_after_seconds=_NO_KEY_RETRY_SECONDS)
    try:
        yield ctx.payments
    except StripeError as error:
        if isinstance(error, StripeCredentialsError):
            log.critical("stripe.credentials", hint="STRIPE_SECRET_KEY is wrong or may not do this")
        raise RetryableError(f"stripe: {error.reason}") from error


async def _complete(ctx: WorkerContext, task: Task) -> None:
    async def work(conn: Connection) -> None:
        if not await outbox.complete(conn, task.lease_token):
            raise LeaseLostError

    await ctx.db.run(work)
