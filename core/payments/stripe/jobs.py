"""Jobs of Stripe's events; see handle.py and events.py."""

from typing import Protocol

import structlog

from core.db import Database
from core.payments.jobs import run_scheduled, using_provider
from core.payments.stripe import events, handle
from core.payments.stripe.client import StripeClient
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

log = structlog.get_logger()


class StripeTools(Protocol):
    """`db` signs in as the worker; `payments` is None where there is no key."""

    @property
    def db(self) -> Database: ...
    @property
    def payments(self) -> StripeClient | None: ...


async def handle_event(tools: StripeTools, task: Task) -> Outcome:
    """`stripe_event.handle` {event_id}"""
    async with using_provider(tools.db, tools.payments) as client:
        await handle.handle_event(tools.db, client, task.args["event_id"])
    return DONE


async def handle_stranded(tools: StripeTools, _: Task) -> Outcome:
    """`stripe_events.handle_stranded` {}"""
    return await run_scheduled(tools.db, tools.payments, handle.handle_stranded)


async def fetch_missed(tools: StripeTools, _: Task) -> Outcome:
    """`stripe_events.fetch_missed` {}"""
    return await run_scheduled(tools.db, tools.payments, handle.fetch_missed)


async def prune(tools: StripeTools, _: Task) -> Outcome:
    """`stripe_events.prune` {}"""
    pruned = await tools.db.run(events.prune)
    if pruned:
        log.info("stripe_events.pruned", count=pruned)
    return DONE
