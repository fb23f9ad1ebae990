"""One function decides what a payment is worth: it asks Stripe, and writes one look down.

Webhook, landing page, refunds and reconciliation all come here. Stripe is asked outside of any
transaction; the look is written only where the order has not moved on since, else it looks again.
"""

import asyncio
import contextlib
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from core.db import Connection, Database
from core.errors import NotFoundError, RetryableError
from core.payments import queries
from core.payments.stripe.client import StripeError, StripeGateway, StripeRefusedError
from core.payments.types import Order, OrderState, PaymentIntent, Session, StripeRefund
from core.payments.verify import find_mismatch

log = structlog.get_logger()

LOOKS_MAX: Final = 10
ABANDONED_AFTER: Final = timedelta(hours=2)
"""An attempt of which Stripe knows no session after this long was never made there."""
_REFUND_STATES: Final = frozenset({"pending", "requires_action", "succeeded", "failed", "canceled"})
_GONE: Final = frozenset({"pending", "requires_action", "succeeded"})
_REFUNDED_IN_REVIEW: Final = "refunded_in_review"


class Synced(msgspec.Struct, frozen=True):
    """What one look changed. `credits_reversed` is the difference, negative when restored."""

    state: OrderState
    was: OrderState
    granted: bool
    credits_reversed: int


class Sight(msgspec.Struct, frozen=True):
    """The order before Stripe was asked, and its sessions by id with their attempts."""

    order: Order
    attempts: dict[str, int]
    asked_at: datetime


async def sync_order(
    db: Database,
    gateway: StripeGateway,
    order_id: uuid.UUID,
    *,
    session_id: str | None = None,
    event_id: str | None = None,
    lease_token: uuid.UUID | None = None,
) -> Synced:
    """Bring an order to what Stripe says now. `session_id` is one that claims to be of this order.

    The event is marked handled and the task completed in the transaction of the effect.
    Raises: NotFoundError, StripeError, RetryableError, LeaseLostError.
    Replay: safe; what was granted or taken back is not posted again.
    """
    for _ in range(LOOKS_MAX):
        sight = await db.run(lambda conn: _begin(conn, order_id))
        facts = await look(gateway, sight, session_id)
        result = await db.run(
            lambda conn, sight=sight, facts=facts: queries.write_sync(  # type: ignore[misc]
                conn,
                order_id,
                version=sight.order.version,
                asked_at=sight.asked_at,
                facts=facts,
                event_id=event_id,
                lease_token=lease_token,
            )
        )
        if not result["stale"]:
            return _report(order_id, facts, msgspec.convert(result, Synced))
        await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311  spreads writers, no secret
    raise RetryableError("order_busy")


async def look(gateway: StripeGateway, sight: Sight, hint: str | None) -> dict[str, Any]:
    """What Stripe says of an order, as app.sync_order takes it."""
    order = sight.order
    sessions = await _sessions(gateway, sight, hint)
    paid = [session for session in sessions if session.is_paid]
    if not paid:
        return await _look_unpaid(gateway, sight, sessions)
    session = next((each for each in paid if each.id == order.session_id), paid[0])
    mismatch = (
        None if order.paid_at else find_mismatch(order, session, await _price_id(gateway, order))
    )
    facts: dict[str, Any] = {
        "outcome": OrderState.REVIEW if mismatch else OrderState.PAID,
        "review_reason": mismatch or ("paid_twice" if len(paid) > 1 else None),
        "session_id": session.id,
        "customer_id": session.customer,
        "payment_intent": session.payment_intent,
        "amount_total": session.amount_total,
        "refunds": [],
        "disputes": [],
        **await _papers(gateway, order, session),
    }
    if session.payment_intent is not None:
        refunds = await gateway.list_refunds(session.payment_intent)
        disputes = await gateway.list_disputes(session.payment_intent)
        facts["refunds"] = [_refund_facts(each) for each in refunds]
        facts["disputes"] = msgspec.to_builtins(disputes)
        gone = sum(each.amount for each in refunds if each.status in _GONE)
        if mismatch and gone >= (session.amount_total or 0):
            facts |= {
                "outcome": OrderState.FAILED,
                "review_reason": None,
                "failure_reason": _REFUNDED_IN_REVIEW,
            }
    return facts


async def _begin(conn: Connection, order_id: uuid.UUID) -> Sight:
    order, sessions, asked_at = await queries.begin_look(conn, order_id)
    if order is None:
        raise NotFoundError(kind="order")
    attempts = {row["session_id"]: row["attempt"] for row in sessions}
    return Sight(msgspec.convert(order, Order), attempts, asked_at)


async def _sessions(gateway: StripeGateway, sight: Sight, hint: str | None) -> list[Session]:
    """Every session of the order that Stripe still knows; a lost one is found by its reference."""
    order = sight.order
    known = list(sight.attempts)
    if hint is not None and hint not in known:
        known.append(hint)
    if order.paid_at is None and order.session_id is None and hint is None:
        known += [each for each in await _find_lost(gateway, order) if each not in known]
    found = []
    for session_id in known:
        try:
            found.append(await gateway.get_session(session_id))
        except StripeRefusedError as error:
            if not error.is_missing:
                raise
            log.warning("payment.session_missing", order_id=str(order.id), session_id=session_id)
    return found


async def _find_lost(gateway: StripeGateway, order: Order) -> list[str]:
    """The answer to our create was lost: Stripe lists the session under our reference."""
    since = int(order.attempted_at.timestamp()) - 60
    listed = gateway.list_sessions({"created": {"gte": since}})
    return [each.id async for each in listed if each.client_reference_id == str(order.id)]


async def _look_unpaid(
    gateway: StripeGateway, sight: Sight, sessions: list[Session]
) -> dict[str, Any]:
    order = sight.order
    current = [
        each for each in sessions if sight.attempts.get(each.id, order.attempt) == order.attempt
    ]
    if not current:
        is_abandoned = order.attempted_at < datetime.now(UTC) - ABANDONED_AFTER
        return {"outcome": OrderState.EXPIRED if is_abandoned else OrderState.CREATED}
    session = max(current, key=lambda each: each.created)
    facts = {
        "session_id": session.id,
        "session_url": session.url,
        "customer_id": session.customer,
        "payment_intent": session.payment_intent,
    }
    if session.status != "complete":
        state = OrderState.OPEN if session.status == "open" else OrderState.EXPIRED
        return {**facts, "outcome": state}
    intent = (
        await gateway.get_payment_intent(session.payment_intent) if session.payment_intent else None
    )
    if intent is not None and intent.status in {"requires_payment_method", "canceled"}:
        return {**facts, "outcome": OrderState.FAILED, "failure_reason": _failure_of(intent)}
    return {**facts, "outcome": OrderState.PROCESSING}


def _failure_of(intent: PaymentIntent) -> str:
    error = intent.last_payment_error
    return (error and (error.decline_code or error.code)) or "payment_failed"


async def _price_id(gateway: StripeGateway, order: Order) -> str | None:
    """What the session had to be made with; after a lost answer only Stripe's list knows."""
    if order.price_id is not None:
        return order.price_id
    price = await gateway.find_price(order.lookup_key)
    return price.id if price else None


async def _papers(gateway: StripeGateway, order: Order, session: Session) -> dict[str, Any]:
    """Invoice and receipt, once. They are a service: without them the payment still counts."""
    papers: dict[str, Any] = {}
    with contextlib.suppress(StripeError):
        if session.invoice is not None and order.invoice_url is None:
            invoice = await gateway.get_invoice(session.invoice)
            papers |= {
                "invoice_id": invoice.id,
                "invoice_url": invoice.hosted_invoice_url,
                "invoice_pdf_url": invoice.invoice_pdf,
            }
    with contextlib.suppress(StripeError):
        if session.payment_intent is not None and order.receipt_url is None:
            intent = await gateway.get_payment_intent(session.payment_intent)
            if intent.latest_charge is not None:
                charge = await gateway.get_charge(intent.latest_charge)
                papers["receipt_url"] = charge.receipt_url
    return papers


def _refund_facts(refund: StripeRefund) -> dict[str, Any]:
    return {
        "id": refund.id,
        "amount": refund.amount,
        # A word that Stripe may add later still means that money is on its way back.
        "status": refund.status if refund.status in _REFUND_STATES else "pending",
        "reason": refund.reason,
        "failure_reason": refund.failure_reason,
        "request_id": _uuid_or_none(refund.metadata.get("refund_request_id")),
    }


def _uuid_or_none(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text else None
    except ValueError:
        return None


def _report(order_id: uuid.UUID, facts: dict[str, Any], synced: Synced) -> Synced:
    if facts.get("review_reason"):
        log.error("payment.review", order_id=str(order_id), reason=facts["review_reason"])
    if synced.granted or synced.credits_reversed or synced.state != synced.was:
        log.info(
            "payment.synced",
            order_id=str(order_id),
            state=synced.state,
            was=synced.was,
            granted=synced.granted,
            credits_reversed=synced.credits_reversed,
        )
    return synced
