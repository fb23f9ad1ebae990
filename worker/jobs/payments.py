"""Jobs of payments: each asks Stripe and writes one look down; see core/payments."""

import contextlib
import functools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

import structlog

from core.db import Database
from core.errors import FailureKind, RetryableError
from core.payments import catch_up as reconcile
from core.payments import refunds
from core.payments import sync as syncing
from core.payments.stripe import events
from core.payments.stripe.client import (
    StripeCredentialsError,
    StripeError,
    StripeGateway,
    StripeUnreachableError,
)
from core.tasks import outbox
from core.tasks.outbox import Task
from worker.context import WorkerContext

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
    await _scheduled(ctx, task, reconcile.sync_unsettled)


async def sync_completed(ctx: WorkerContext, task: Task) -> None:
    """`payments.sync_completed` {}"""
    await _scheduled(ctx, task, reconcile.sync_completed)


async def fetch_events(ctx: WorkerContext, task: Task) -> None:
    """`payments.fetch_events` {}"""
    await _scheduled(ctx, task, reconcile.fetch_events)


async def compare_day(ctx: WorkerContext, task: Task) -> None:
    """`payments.compare_day` {}: yesterday, by UTC."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    await _scheduled(ctx, task, functools.partial(reconcile.compare_day, day=yesterday))


async def prune_events(ctx: WorkerContext, task: Task) -> None:
    """`payments.prune_events` {}"""
    pruned = await ctx.db.run(lambda conn: events.prune(conn, lease_token=task.lease_token))
    if pruned:
        log.info("stripe_events.pruned", count=pruned)


@contextlib.contextmanager
def _stripe(ctx: WorkerContext) -> Iterator[StripeGateway]:
    """The gateway; whatever Stripe answers that is not an outcome is tried again later."""
    if ctx.payments is None:
        raise RetryableError(
            "no_stripe_key", kind=FailureKind.ABSENT, retry_after_seconds=_NO_KEY_RETRY_SECONDS
        )
    try:
        yield ctx.payments
    except StripeError as error:
        if isinstance(error, StripeCredentialsError):
            log.critical("stripe.credentials", hint="STRIPE_SECRET_KEY is wrong or may not do this")
        is_absent = isinstance(error, StripeUnreachableError | StripeCredentialsError)
        kind = FailureKind.ABSENT if is_absent else FailureKind.ERROR
        raise RetryableError(f"stripe: {error.reason}", kind=kind) from error


async def _scheduled(
    ctx: WorkerContext, task: Task, look: Callable[[Database, StripeGateway], Awaitable[object]]
) -> None:
    """A look that the schedule wants; without a shop there is nothing to look at."""
    if ctx.payments is not None:
        with _stripe(ctx) as gateway:
            await look(ctx.db, gateway)
    await ctx.db.run(lambda conn: outbox.complete(conn, task.lease_token))
