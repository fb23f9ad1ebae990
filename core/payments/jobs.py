"""Jobs of payments: each asks the provider and writes down what it says; see core/payments."""

import contextlib
import functools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from core.db import Database
from core.errors import FailureKind, RetryableError
from core.payments import catch_up
from core.payments.provider import PaymentProviderError, ProviderCredentialsError
from core.payments.returns import create_return
from core.payments.stripe import events, handle
from core.payments.stripe.client import StripeClient
from core.payments.sync import sync_order
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

log = structlog.get_logger()

# Without a key nobody can be asked; the tasks wait for a process that has one.
_NO_KEY_RETRY_SECONDS = 60


class PaymentTools(Protocol):
    """`db` signs in as the worker; `payments` is None where there is no key."""

    @property
    def db(self) -> Database: ...
    @property
    def payments(self) -> StripeClient | None: ...


async def sync(tools: PaymentTools, task: Task) -> Outcome:
    """`payment.sync` {order_id}"""
    with _provider(tools) as provider:
        await sync_order(tools.db, provider, uuid.UUID(task.args["order_id"]))
    return DONE


async def handle_event(tools: PaymentTools, task: Task) -> Outcome:
    """`stripe_event.handle` {event_id}"""
    with _provider(tools) as provider:
        await handle.handle_event(tools.db, provider, task.args["event_id"])
    return DONE


async def make_return(tools: PaymentTools, task: Task) -> Outcome:
    """`return.create` {return_id}"""
    with _provider(tools) as provider:
        await create_return(tools.db, provider, uuid.UUID(task.args["return_id"]))
    return DONE


async def sync_unsettled(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.sync_unsettled` {}"""

    async def heal(db: Database, client: StripeClient) -> None:
        await catch_up.sync_unsettled(db, client)
        await handle.handle_stranded(db, client)

    return await _scheduled(tools, heal)


async def sync_completed(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.sync_completed` {}"""
    return await _scheduled(tools, catch_up.sync_completed)


async def fetch_events(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.fetch_events` {}"""
    return await _scheduled(tools, handle.fetch_missed)


async def compare_day(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.compare_day` {}: yesterday, by UTC."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    return await _scheduled(tools, functools.partial(catch_up.compare_day, day=yesterday))


async def prune_events(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.prune_events` {}"""
    pruned = await tools.db.run(events.prune)
    if pruned:
        log.info("stripe_events.pruned", count=pruned)
    return DONE


@contextlib.contextmanager
def _provider(tools: PaymentTools) -> Iterator[StripeClient]:
    """The provider; whatever it answers that is not an outcome is tried again later."""
    if tools.payments is None:
        raise RetryableError(
            "no_stripe_key", kind=FailureKind.ABSENT, retry_after_seconds=_NO_KEY_RETRY_SECONDS
        )
    try:
        yield tools.payments
    except PaymentProviderError as error:
        if isinstance(error, ProviderCredentialsError):
            log.critical("stripe.credentials", hint="STRIPE_SECRET_KEY is wrong or may not do this")
        reason = f"payment provider: {error.reason}"
        raise RetryableError(reason, kind=error.failure_kind) from error


async def _scheduled(
    tools: PaymentTools, work: Callable[[Database, StripeClient], Awaitable[object]]
) -> Outcome:
    """What the schedule wants done; where nothing is sold there is nothing to do."""
    if tools.payments is not None:
        with _provider(tools) as provider:
            await work(tools.db, provider)
    return DONE
