"""Jobs of payments: each fetches from the provider and records the result; see core/payments."""

import contextlib
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from core.db import Database
from core.errors import FailureKind, RetryableError
from core.payments import catch_up, compare, pages, papers
from core.payments.keys import note_key
from core.payments.provider import PaymentProvider, PaymentProviderError
from core.payments.returns import create_return
from core.payments.sync import sync_order
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

Provider = TypeVar("Provider", bound=PaymentProvider)

# Without a key no call is possible; the tasks wait for a process that has one.
_NO_KEY_RETRY_SECONDS = 60


class PaymentTools(Protocol):
    """`db` signs in as the worker; `payments` is None where there is no key."""

    @property
    def db(self) -> Database: ...
    @property
    def payments(self) -> PaymentProvider | None: ...


async def sync(tools: PaymentTools, task: Task) -> Outcome:
    """`payment.sync` {order_id}"""
    async with using_provider(tools.db, tools.payments) as provider:
        await sync_order(tools.db, provider, uuid.UUID(task.args["order_id"]))
    return DONE


async def close_pages(tools: PaymentTools, task: Task) -> Outcome:
    """`payment.close_pages` {user_id}"""
    async with using_provider(tools.db, tools.payments) as provider:
        await pages.close_pages(tools.db, provider, uuid.UUID(task.args["user_id"]))
    return DONE


async def make_return(tools: PaymentTools, task: Task) -> Outcome:
    """`return.create` {return_id}"""
    async with using_provider(tools.db, tools.payments) as provider:
        await create_return(tools.db, provider, uuid.UUID(task.args["return_id"]))
    return DONE


async def note_return(tools: PaymentTools, task: Task) -> Outcome:
    """`return.note` {return_id}"""
    async with using_provider(tools.db, tools.payments) as provider:
        return_id = uuid.UUID(task.args["return_id"])
        await papers.write_credit_note(tools.db, provider, return_id, attempt=task.tries)
    return DONE


async def sync_unsettled(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.sync_unsettled` {}"""
    return await run_scheduled(tools.db, tools.payments, catch_up.sync_unsettled)


async def sync_completed(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.sync_completed` {}"""
    return await run_scheduled(tools.db, tools.payments, catch_up.sync_completed)


async def compare_day(tools: PaymentTools, _: Task) -> Outcome:
    """`payments.compare_day` {}: yesterday, by UTC, and what differed of the days before."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    days = functools.partial(compare.compare_days, yesterday=yesterday)
    return await run_scheduled(tools.db, tools.payments, days)


@contextlib.asynccontextmanager
async def using_provider(db: Database, provider: Provider | None) -> AsyncIterator[Provider]:
    """The provider; its errors become RetryableError, so that the task runs again."""
    if provider is None:
        raise RetryableError(
            "no_payment_provider",
            kind=FailureKind.ABSENT,
            retry_after_seconds=_NO_KEY_RETRY_SECONDS,
        )
    try:
        yield provider
    except PaymentProviderError as error:
        await note_key(db, error)
        reason = f"payment provider: {error.reason}"
        raise RetryableError(reason, kind=error.failure_kind) from error


async def run_scheduled(
    db: Database,
    provider: Provider | None,
    work: Callable[[Database, Provider], Awaitable[object]],
) -> Outcome:
    """A job of the schedule; where nothing is sold there is nothing to do."""
    if provider is not None:
        async with using_provider(db, provider):
            await work(db, provider)
    return DONE
