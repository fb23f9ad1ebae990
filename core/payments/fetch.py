"""The present state of an order at the provider. Uses no database: a snapshot in, a state out."""

import contextlib
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from core.payments.provider import (
    CheckoutSession,
    Dispute,
    Invoice,
    Missing,
    PaymentProvider,
    PaymentProviderError,
    ProviderRefusedError,
    ProviderReturn,
    SessionState,
)
from core.payments.types import Order, OrderState, ReturnState, ReviewReason
from core.payments.verify import find_mismatch

log = structlog.get_logger()

# An attempt of which the provider knows no session after this long was never made there.
ABANDONED_AFTER: Final = timedelta(hours=2)
_CLOCK_SKEW: Final = timedelta(seconds=60)
_ON_ITS_WAY_BACK: Final = frozenset(
    {ReturnState.PENDING, ReturnState.REQUIRES_ACTION, ReturnState.SUCCEEDED}
)
_RETURNED_IN_REVIEW: Final = "refunded_in_review"


class OrderSnapshot(msgspec.Struct, frozen=True):
    """The order before the fetch, its sessions by id with their attempts, and the database's time
    then."""

    order: Order
    attempts: dict[str, int]
    fetch_started_at: datetime


class FetchedState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an order at the provider, as app.sync_order writes it."""

    outcome: OrderState
    review_reason: ReviewReason | None = None
    failure_reason: str | None = None
    session_id: str | None = None
    session_url: str | None = None
    customer_id: str | None = None
    provider_payment_id: str | None = None
    amount_total: int | None = None
    invoice_id: str | None = None
    invoice_url: str | None = None
    invoice_pdf_url: str | None = None
    receipt_url: str | None = None
    returns: list[ProviderReturn] = []
    disputes: list[Dispute] = []


async def fetch_state(
    provider: PaymentProvider, snapshot: OrderSnapshot, claimed_session_id: str | None
) -> FetchedState:
    """`claimed_session_id` is a session that claims to be of this order.

    Raises: PaymentProviderError.
    """
    sessions = await _sessions(provider, snapshot, claimed_session_id)
    paid = [session for session in sessions if session.is_paid]
    if not paid:
        return await _fetch_unpaid(provider, snapshot, sessions)
    session = next((each for each in paid if each.id == snapshot.order.session_id), paid[0])
    return await _fetch_paid(provider, snapshot.order, session, is_paid_twice=len(paid) > 1)


async def _fetch_paid(
    provider: PaymentProvider, order: Order, session: CheckoutSession, *, is_paid_twice: bool
) -> FetchedState:
    mismatch = (
        None if order.paid_at else find_mismatch(order, session, await _price_id(provider, order))
    )
    invoice, receipt_url = await _invoice_and_receipt(provider, order, session)
    returns: list[ProviderReturn] = []
    disputes: list[Dispute] = []
    if session.payment_id is not None:
        returns = await provider.list_returns(session.payment_id)
        disputes = await provider.list_disputes(session.payment_id)
    state = FetchedState(
        outcome=OrderState.REVIEW if mismatch else OrderState.PAID,
        review_reason=mismatch or (ReviewReason.PAID_TWICE if is_paid_twice else None),
        session_id=session.id,
        customer_id=session.customer_id,
        provider_payment_id=session.payment_id,
        amount_total=session.amount_total,
        invoice_id=invoice.id if invoice else None,
        invoice_url=invoice.url if invoice else None,
        invoice_pdf_url=invoice.pdf_url if invoice else None,
        receipt_url=receipt_url,
        returns=returns,
        disputes=disputes,
    )
    returned = sum(each.amount for each in returns if each.state in _ON_ITS_WAY_BACK)
    if mismatch and session.payment_id and returned >= (session.amount_total or 0):
        return msgspec.structs.replace(
            state,
            outcome=OrderState.FAILED,
            review_reason=None,
            failure_reason=_RETURNED_IN_REVIEW,
        )
    return state


async def _fetch_unpaid(
    provider: PaymentProvider, snapshot: OrderSnapshot, sessions: list[CheckoutSession]
) -> FetchedState:
    order = snapshot.order
    current = [
        each for each in sessions if snapshot.attempts.get(each.id, order.attempt) == order.attempt
    ]
    if not current:
        is_abandoned = order.attempted_at < snapshot.fetch_started_at - ABANDONED_AFTER
        return FetchedState(outcome=OrderState.EXPIRED if is_abandoned else OrderState.CREATED)
    session = max(current, key=lambda each: each.created_at)
    outcome, failure_reason = await _outcome_of(provider, session)
    return FetchedState(
        outcome=outcome,
        failure_reason=failure_reason,
        session_id=session.id,
        session_url=session.url,
        customer_id=session.customer_id,
        provider_payment_id=session.payment_id,
    )


async def _outcome_of(
    provider: PaymentProvider, session: CheckoutSession
) -> tuple[OrderState, str | None]:
    """What an unpaid session means for its order, and why it failed if it did."""
    if session.state is not SessionState.COMPLETE:
        is_open = session.state is SessionState.OPEN
        return OrderState.OPEN if is_open else OrderState.EXPIRED, None
    if session.payment_id is not None:
        payment = await provider.get_payment(session.payment_id)
        if payment.failure_reason is not None:
            return OrderState.FAILED, payment.failure_reason
    return OrderState.PROCESSING, None


async def _sessions(
    provider: PaymentProvider, snapshot: OrderSnapshot, claimed_session_id: str | None
) -> list[CheckoutSession]:
    """Every session of the order at the provider; one that was created unanswered is searched."""
    order = snapshot.order
    known = list(snapshot.attempts)
    if claimed_session_id is not None and claimed_session_id not in known:
        known.append(claimed_session_id)
    if order.paid_at is None and order.session_id is None and claimed_session_id is None:
        known += [each for each in await _find_lost(provider, order) if each not in known]
    found = []
    for session_id in known:
        try:
            found.append(await provider.get_session(session_id))
        except ProviderRefusedError as error:
            if error.missing is not Missing.SUBJECT:
                raise
            log.warning("payment.session_missing", order_id=str(order.id), session_id=session_id)
    return found


async def _find_lost(provider: PaymentProvider, order: Order) -> list[str]:
    """The answer to our create was lost: the provider lists the session under our reference."""
    listed = provider.list_sessions(since=order.attempted_at - _CLOCK_SKEW)
    return [each.id async for each in listed if each.order_reference == str(order.id)]


async def _price_id(provider: PaymentProvider, order: Order) -> str | None:
    """The price that the session has to have; after a lost answer it is looked up by its key."""
    if order.price_id is not None:
        return order.price_id
    price = await provider.find_price(order.lookup_key)
    return price.id if price else None


async def _invoice_and_receipt(
    provider: PaymentProvider, order: Order, session: CheckoutSession
) -> tuple[Invoice | None, str | None]:
    """Fetched once. A failure of either does not stop the payment."""
    invoice: Invoice | None = None
    receipt_url: str | None = None
    with contextlib.suppress(PaymentProviderError):
        if session.invoice_id is not None and order.invoice_url is None:
            invoice = await provider.get_invoice(session.invoice_id)
    with contextlib.suppress(PaymentProviderError):
        if session.payment_id is not None and order.receipt_url is None:
            receipt_url = await provider.find_receipt_url(session.payment_id)
    return invoice, receipt_url
