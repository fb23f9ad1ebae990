"""Handles Stripe's events: finds the order that one is about, and syncs it."""

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from core.db import Connection, Database
from core.payments import dispute_queries, queries, service
from core.payments.catch_up import LISTED_MAX, STRANDED_AFTER_SECONDS, for_each
from core.payments.provider import PaymentProvider, ProviderRefusedError
from core.payments.stripe import events
from core.payments.stripe.client import StripeClient
from core.payments.stripe.objects import fraud_warning_of
from core.payments.stripe.types import StripeEvent, Subject, received_event
from core.payments.sync import sync_order
from core.payments.types import Synced

log = structlog.get_logger()

EVENTS_BACK: Final = timedelta(hours=72)
EVENTS_BACK_WEEKLY: Final = timedelta(days=30)
NOT_OURS: Final = "ignored: no order of ours"
_MONDAY: Final = 0


class _EventWithOrder(msgspec.Struct, frozen=True):
    event: StripeEvent
    subject: Subject
    payment_id: str | None
    order_id: uuid.UUID | None


async def handle_event(db: Database, provider: PaymentProvider, event_id: str) -> None:
    """Sync the order that an event is about; the event is marked in the transaction of the effect.

    Raises: PaymentProviderError, RetryableError.
    """
    found = await db.run(lambda conn: _find(conn, event_id))
    if found is None:
        return
    event, order_id = found.event, found.order_id
    if order_id is None and found.payment_id is not None:
        order_id = await _order_of_payment(db, provider, found.payment_id)
    if event.type == "charge.dispute.created":
        log.error("payment.disputed", order_id=str(order_id), dispute_id=found.subject.id)
    if event.type in events.WARNING_TYPES:
        await _note_fraud_warning(db, provider, event)
        return
    if order_id is None or event.type in events.NOTED_TYPES:
        outcome = "noted" if order_id is not None else NOT_OURS
        log.info("stripe_event.passed_over", event_id=event_id, type=event.type, outcome=outcome)
        await db.run(lambda conn: events.finish(conn, event_id, outcome, order_id=order_id))
        return

    async def finish(conn: Connection, synced: Synced) -> None:
        await events.finish(conn, event_id, synced.state, order_id=order_id)

    claimed = found.subject.id if event.type in events.SESSION_TYPES else None
    await sync_order(db, provider, order_id, claimed_session_id=claimed, record=finish)


async def _note_fraud_warning(db: Database, provider: PaymentProvider, event: StripeEvent) -> None:
    """Mirrors the warning as it is now; as it was told where the key may not read warnings."""
    assert event.payload is not None
    told = fraud_warning_of(event.payload["data"]["object"])
    warning = await provider.find_fraud_warning(told.id) or told
    order_id: uuid.UUID | None = None
    if warning.payment_id is not None:
        order_id = await _order_of(db, provider, warning.payment_id)
    if order_id is not None and warning.is_actionable:
        log.error(
            "payment.fraud_warned",
            order_id=str(order_id),
            warning_id=warning.id,
            fraud_type=warning.fraud_type,
        )

    async def record(conn: Connection) -> None:
        if order_id is not None:
            await dispute_queries.record_fraud_warning(conn, warning, order_id)
        outcome = "warned" if order_id is not None else NOT_OURS
        await events.finish(conn, event.id, outcome, order_id=order_id)

    await db.run(record)


async def _order_of(db: Database, provider: PaymentProvider, payment_id: str) -> uuid.UUID | None:
    known = await db.run(lambda conn: queries.find_order_by_payment(conn, payment_id))
    return known or await _order_of_payment(db, provider, payment_id)


async def handle_stranded(
    db: Database, provider: PaymentProvider, *, older_than_seconds: float = STRANDED_AFTER_SECONDS
) -> int:
    """Handles events that wait and have no task left; how many there were."""
    stranded = await db.run(
        lambda conn: events.list_stranded(
            conn, older_than_seconds=older_than_seconds, limit=LISTED_MAX
        )
    )
    await for_each(stranded, lambda event_id: handle_event(db, provider, event_id))
    return len(stranded)


async def fetch_missed(db: Database, client: StripeClient, *, today: date | None = None) -> int:
    """Fetches events of refunds and disputes that no webhook brought; how many were new."""
    now = datetime.now(UTC)
    day = today or now.date()
    back = EVENTS_BACK_WEEKLY if day.weekday() == _MONDAY else EVENTS_BACK
    new = 0
    types = (*events.REVERSAL_TYPES, *events.WARNING_TYPES)
    async for payload in client.list_events(types, since=now - back):
        event = received_event(payload)
        new += await db.run(
            lambda conn, event=event: events.record(conn, event, source="reconcile")  # type: ignore[misc]
        )
    return new


async def _find(conn: Connection, event_id: str) -> _EventWithOrder | None:
    """The event and the order that our rows name for it; None once it is handled or pruned."""
    event = await events.find_event(conn, event_id)
    if event is None or event.handled_at is not None:
        return None
    assert event.payload is not None
    subject = _subject_of(event.payload["data"]["object"])
    if event.type in events.SESSION_TYPES:
        order_id = await queries.find_order_by_session(conn, str(subject.id))
        order_id = order_id or await service.find_order_id(conn, subject.client_reference_id)
        return _EventWithOrder(event, subject, None, order_id)
    is_payment = event.type.startswith("payment_intent.")
    payment_id = subject.id if is_payment else subject.payment_intent
    if payment_id is None:
        return _EventWithOrder(event, subject, None, None)
    order_id = await queries.find_order_by_payment(conn, payment_id)
    return _EventWithOrder(event, subject, payment_id, order_id)


def _subject_of(described: dict[str, Any]) -> Subject:
    # An object with something else than ids there is not one of ours.
    ids = {name: described.get(name) for name in Subject.__struct_fields__}
    return Subject(**{name: value for name, value in ids.items() if isinstance(value, str)})


async def _order_of_payment(
    db: Database, provider: PaymentProvider, payment_id: str
) -> uuid.UUID | None:
    """The order that the payment was created for, where no row of ours names the payment."""
    try:
        payment = await provider.get_payment(payment_id)
    except ProviderRefusedError:
        return None
    return await db.run(lambda conn: service.find_order_id(conn, payment.order_reference))
