"""The present state of an order at the provider. Uses no database: a snapshot in, a state out."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from core.payments.provider import (
    CheckoutSession,
    Dispute,
    Invoice,
    PaymentProvider,
    PaymentProviderError,
    ProviderCharge,
    ProviderRefusedError,
    ProviderReturn,
    Refused,
    SessionState,
)
from core.payments.types import (
    DisputeState,
    Order,
    OrderState,
    ReturnState,
    ReviewDecision,
    ReviewReason,
)
from core.payments.verify import find_mismatch

log = structlog.get_logger()

# An attempt of which the provider knows no session after this long was never made there.
ABANDONED_AFTER: Final = timedelta(hours=2)
_CLOCK_SKEW: Final = timedelta(seconds=60)
ON_ITS_WAY_BACK: Final = frozenset(
    {ReturnState.PENDING, ReturnState.REQUIRES_ACTION, ReturnState.SUCCEEDED}
)
_HELD: Final = frozenset({DisputeState.OPEN, DisputeState.LOST})
_RETURNED_IN_REVIEW: Final = "refunded_in_review"
_REJECTED_IN_REVIEW: Final = "rejected_in_review"


class KnownSession(msgspec.Struct, frozen=True):
    """A session as our rows have it; `price_id` is the price that it was made at."""

    attempt: int
    price_id: str | None


class OrderSnapshot(msgspec.Struct, frozen=True):
    """The order before the fetch, its sessions by id, its buyer's customer at the provider, and
    the database's time then."""

    order: Order
    sessions: dict[str, KnownSession]
    customer_id: str | None
    fetch_started_at: datetime


class OtherPayment(msgspec.Struct, frozen=True):
    """A second payment of an order that has been granted for another one."""

    payment_id: str
    session_id: str
    amount_total: int


class FetchedState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an order at the provider, as app.sync_order writes it. `returns` and `disputes`
    are those of all its payments."""

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
    payment_method: str | None = None
    card_fingerprint: str | None = None
    returns: list[ProviderReturn] = []
    disputes: list[Dispute] = []
    other_payments: list[OtherPayment] = []


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
    session = _counted(snapshot.order, paid)
    others = [each for each in paid if each.id != session.id]
    return await _fetch_paid(provider, snapshot, session, others)


def _counted(order: Order, paid: list[CheckoutSession]) -> CheckoutSession:
    """The session whose payment the order is granted for: once it is, always the same one."""
    ids = (order.provider_payment_id, order.session_id)
    by_payment = (each for each in paid if order.paid_at and each.payment_id == ids[0])
    by_session = (each for each in paid if each.id == ids[1])
    return next(by_payment, None) or next(by_session, None) or paid[0]


async def _fetch_paid(
    provider: PaymentProvider,
    snapshot: OrderSnapshot,
    session: CheckoutSession,
    others: list[CheckoutSession],
) -> FetchedState:
    order = snapshot.order
    mismatch = await _mismatch(provider, snapshot, session)
    (invoice, charge), (returns, disputes) = await asyncio.gather(
        _invoice_and_charge(provider, order, session),
        _reversals(provider, [session, *others]),
    )
    left = _still_ours(others, returns, disputes)
    state = FetchedState(
        outcome=OrderState.REVIEW if mismatch else OrderState.PAID,
        review_reason=mismatch or (ReviewReason.PAID_TWICE if left else None),
        session_id=session.id,
        customer_id=session.customer_id,
        provider_payment_id=session.payment_id,
        amount_total=session.amount_total,
        invoice_id=invoice.id if invoice else None,
        invoice_url=invoice.url if invoice else None,
        invoice_pdf_url=invoice.pdf_url if invoice else None,
        receipt_url=charge.receipt_url if charge else None,
        payment_method=charge.method if charge else None,
        card_fingerprint=charge.card_fingerprint if charge else None,
        returns=returns,
        disputes=disputes,
        other_payments=[
            OtherPayment(each.payment_id, each.id, each.amount_total or 0)
            for each in others
            if each.payment_id is not None
        ],
    )
    is_in_review = mismatch is not None or order.state is OrderState.REVIEW
    return _ended_in_review(order, session, state) if is_in_review else state


def _ended_in_review(order: Order, session: CheckoutSession, state: FetchedState) -> FetchedState:
    """A review ends without credits when the money went back, or when an admin has ended it for a
    session that nothing was paid for."""
    total = session.amount_total or 0
    returned = sum(
        each.amount
        for each in state.returns
        if each.payment_id == session.payment_id and each.state in ON_ITS_WAY_BACK
    )
    reason = None
    if session.payment_id and 0 < total <= returned:
        reason = _RETURNED_IN_REVIEW
    elif order.decision_on(session.id) is ReviewDecision.REJECTED and (
        total == 0 or order.review_reason is ReviewReason.OTHER_PAYMENT
    ):
        reason = _REJECTED_IN_REVIEW
    if reason is None:
        return state
    return msgspec.structs.replace(
        state, outcome=OrderState.FAILED, review_reason=None, failure_reason=reason
    )


async def _mismatch(
    provider: PaymentProvider, snapshot: OrderSnapshot, session: CheckoutSession
) -> ReviewReason | None:
    """What is paid stays paid, what an admin has accepted is right, and what was rejected is not,
    whatever it is by now."""
    order = snapshot.order
    decision = order.decision_on(session.id)
    if order.paid_at or decision is ReviewDecision.ACCEPTED:
        return None
    if decision is ReviewDecision.REJECTED and order.review_reason is not None:
        return order.review_reason
    return find_mismatch(order, session, await _price_id(provider, snapshot, session))


async def _reversals(
    provider: PaymentProvider, sessions: list[CheckoutSession]
) -> tuple[list[ProviderReturn], list[Dispute]]:
    """Of the payments of these sessions."""
    ids = [each.payment_id for each in sessions if each.payment_id is not None]
    returns, disputes = await asyncio.gather(
        asyncio.gather(*(provider.list_returns(each) for each in ids)),
        asyncio.gather(*(provider.list_disputes(each) for each in ids)),
    )
    return [row for rows in returns for row in rows], [row for rows in disputes for row in rows]


def _still_ours(
    others: list[CheckoutSession], returns: list[ProviderReturn], disputes: list[Dispute]
) -> int:
    """What is left of payments that nothing was given for."""
    gone: dict[str, int] = {}
    for back in returns:
        if back.state in ON_ITS_WAY_BACK:
            gone[back.payment_id] = gone.get(back.payment_id, 0) + back.amount
    for dispute in disputes:
        if dispute.state in _HELD:
            gone[dispute.payment_id] = gone.get(dispute.payment_id, 0) + dispute.amount
    return sum(
        max(0, (each.amount_total or 0) - gone.get(each.payment_id, 0))
        for each in others
        if each.payment_id is not None
    )


async def _fetch_unpaid(
    provider: PaymentProvider, snapshot: OrderSnapshot, sessions: list[CheckoutSession]
) -> FetchedState:
    order = snapshot.order
    current = [
        each
        for each in sessions
        if each.id not in snapshot.sessions or snapshot.sessions[each.id].attempt == order.attempt
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
    known = list(snapshot.sessions)
    if claimed_session_id is not None and claimed_session_id not in known:
        known.append(claimed_session_id)
    if order.paid_at is None and order.session_id is None and claimed_session_id is None:
        known += [each for each in await _find_lost(provider, snapshot) if each not in known]
    found = await asyncio.gather(*(_find_session(provider, order, each) for each in known))
    return [session for session in found if session is not None]


async def _find_session(
    provider: PaymentProvider, order: Order, session_id: str
) -> CheckoutSession | None:
    try:
        return await provider.get_session(session_id)
    except ProviderRefusedError as error:
        if error.part is not Refused.SUBJECT:
            raise
        log.warning("payment.session_missing", order_id=str(order.id), session_id=session_id)
        return None


async def _find_lost(provider: PaymentProvider, snapshot: OrderSnapshot) -> list[str]:
    """The answer to our create was lost: the provider lists the session under our reference.

    It has the buyer's customer, who is recorded before a session is asked for.
    """
    if snapshot.customer_id is None:
        return []
    order = snapshot.order
    listed = provider.list_sessions(
        since=order.created_at - _CLOCK_SKEW, customer_id=snapshot.customer_id
    )
    return [each.id async for each in listed if each.order_reference == str(order.id)]


async def _price_id(
    provider: PaymentProvider, snapshot: OrderSnapshot, session: CheckoutSession
) -> str | None:
    """The price that the session has to have; after a lost answer it is looked up by its key."""
    order = snapshot.order
    known = snapshot.sessions.get(session.id)
    price_id = (known.price_id if known else None) or order.price_id
    if price_id is not None:
        return price_id
    price = await provider.find_price(order.lookup_key)
    return price.id if price else None


async def _invoice_and_charge(
    provider: PaymentProvider, order: Order, session: CheckoutSession
) -> tuple[Invoice | None, ProviderCharge | None]:
    """Fetched once. A failure of either does not stop the payment."""

    async def find_invoice() -> Invoice | None:
        if session.invoice_id is None or order.invoice_url is not None:
            return None
        with contextlib.suppress(PaymentProviderError):
            return await provider.get_invoice(session.invoice_id)
        return None

    async def find_charge() -> ProviderCharge | None:
        if session.payment_id is None or (order.receipt_url and order.payment_method):
            return None
        with contextlib.suppress(PaymentProviderError):
            return await provider.find_charge(session.payment_id)
        return None

    return await asyncio.gather(find_invoice(), find_charge())
