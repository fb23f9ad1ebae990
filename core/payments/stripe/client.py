"""Stripe as the product's PaymentProvider: its words in, ours out.

Uses no database, and is never called inside a transaction.
"""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from core.payments.provider import (
    CheckoutSession,
    Dispute,
    Invoice,
    Price,
    ProviderPayment,
    ProviderReturn,
    ReturnRequest,
    SessionItem,
    SessionRequest,
    SessionState,
)
from core.payments.stripe import types as theirs
from core.payments.stripe.types import as_struct
from core.payments.stripe.wire import call, library_client, pages
from core.payments.types import DisputeState, ReturnState
from core.settings import Settings

# States of a payment whose session is complete: with a slow method it may still fail.
_ENDED_UNPAID: Final = frozenset({"requires_payment_method", "canceled"})
_RETURN_STATES: Final = frozenset({"pending", "requires_action", "succeeded", "failed", "canceled"})
_SESSION_STATES: Final = {state.value: state for state in SessionState}
_INQUIRY: Final = "warning_"
_ENDED_DISPUTES: Final = {
    "won": DisputeState.WON,
    "lost": DisputeState.LOST,
    "prevented": DisputeState.PREVENTED,
}
_RETURN_ID: Final = "return_id"


class StripeClient:
    """One a process and event loop. Every call raises a PaymentProviderError."""

    def __init__(
        self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._http = httpx.AsyncClient(
            transport=transport, timeout=httpx.Timeout(20, connect=5), follow_redirects=False
        )
        self.v1 = library_client(settings, self._http).v1
        self._prices: dict[str, Price] = {}

    async def close(self) -> None:
        await self._http.aclose()

    async def find_price(self, lookup_key: str) -> Price | None:
        if lookup_key not in self._prices:
            params: Any = {"lookup_keys": [lookup_key], "active": True, "limit": 1}
            for found in (await call(self.v1.prices.list_async, params))["data"]:
                price = as_struct(found, theirs.Price)
                self._prices[lookup_key] = Price(price.id, price.unit_amount, price.currency)
        return self._prices.get(lookup_key)

    def discard_prices(self) -> None:
        self._prices.clear()

    async def create_customer(self, user_id: uuid.UUID, email: str | None, *, key: str) -> str:
        params: dict[str, Any] = {"metadata": {"user_id": str(user_id)}}
        if email is not None:
            params["email"] = email
        made = await call(self.v1.customers.create_async, params, {"idempotency_key": key})
        customer_id: str = made["id"]
        return customer_id

    async def create_session(self, request: SessionRequest, *, key: str) -> CheckoutSession:
        params = _session_params(self._settings, request)
        made = await call(self.v1.checkout.sessions.create_async, params, {"idempotency_key": key})
        return _session(made)

    async def get_session(self, session_id: str) -> CheckoutSession:
        found = await call(
            self.v1.checkout.sessions.retrieve_async, session_id, {"expand": ["line_items"]}
        )
        if not (found.get("line_items") or {}).get("data"):
            found["line_items"] = await call(
                self.v1.checkout.sessions.line_items.list_async, session_id, {"limit": 10}
            )
        return _session(found)

    async def expire_session(self, session_id: str) -> CheckoutSession:
        return _session(await call(self.v1.checkout.sessions.expire_async, session_id))

    async def list_sessions(
        self, *, since: datetime, until: datetime | None = None, is_complete: bool = False
    ) -> AsyncIterator[CheckoutSession]:
        created = {"gte": int(since.timestamp())}
        if until is not None:
            created["lt"] = int(until.timestamp())
        params: dict[str, Any] = {"created": created}
        if is_complete:
            params["status"] = "complete"
        async for found in pages(self.v1.checkout.sessions.list_async, params):
            yield _session(found)

    async def get_payment(self, payment_id: str) -> ProviderPayment:
        intent = await self._get_intent(payment_id)
        error = intent.last_payment_error
        word = (error and (error.decline_code or error.code)) or "payment_failed"
        return ProviderPayment(
            intent.id,
            order_reference=intent.metadata.get("order_id"),
            failure_reason=word if intent.status in _ENDED_UNPAID else None,
        )

    async def find_receipt_url(self, payment_id: str) -> str | None:
        intent = await self._get_intent(payment_id)
        if intent.latest_charge is None:
            return None
        found = await call(self.v1.charges.retrieve_async, intent.latest_charge)
        return as_struct(found, theirs.Charge).receipt_url

    async def get_invoice(self, invoice_id: str) -> Invoice:
        found = as_struct(await call(self.v1.invoices.retrieve_async, invoice_id), theirs.Invoice)
        return Invoice(found.id, url=found.hosted_invoice_url, pdf_url=found.invoice_pdf)

    async def list_returns(self, payment_id: str) -> list[ProviderReturn]:
        params = {"payment_intent": payment_id}
        return [_return(found) async for found in pages(self.v1.refunds.list_async, params)]

    async def list_disputes(self, payment_id: str) -> list[Dispute]:
        params = {"payment_intent": payment_id}
        return [_dispute(found) async for found in pages(self.v1.disputes.list_async, params)]

    async def create_return(self, request: ReturnRequest, *, key: str) -> ProviderReturn:
        params = {
            "payment_intent": request.payment_id,
            "amount": request.amount,
            "reason": "requested_by_customer",
            "metadata": {_RETURN_ID: str(request.return_id), "order_id": str(request.order_id)},
        }
        return _return(await call(self.v1.refunds.create_async, params, {"idempotency_key": key}))

    async def create_portal_url(self, customer_id: str, *, return_url: str, key: str) -> str:
        params: Any = {"customer": customer_id, "return_url": return_url}
        create = self.v1.billing_portal.sessions.create_async
        url: str = (await call(create, params, {"idempotency_key": key}))["url"]
        return url

    async def list_events(
        self, types: Sequence[str], *, since: datetime
    ) -> AsyncIterator[dict[str, Any]]:
        """Stripe's own log, which reaches back 30 days; newest first."""
        params = {"types": list(types), "created": {"gte": int(since.timestamp())}}
        async for event in pages(self.v1.events.list_async, params):
            yield event

    async def _get_intent(self, payment_id: str) -> theirs.PaymentIntent:
        found = await call(self.v1.payment_intents.retrieve_async, payment_id)
        return as_struct(found, theirs.PaymentIntent)


def _session_params(settings: Settings, request: SessionRequest) -> dict[str, Any]:
    metadata = {
        "order_id": str(request.order_id),
        "user_id": str(request.user_id),
        "pack": request.pack_slug,
    }
    params: dict[str, Any] = {
        "mode": "payment",
        "customer": request.customer_id,
        "client_reference_id": str(request.order_id),
        "line_items": [{"price": request.price_id, "quantity": 1}],
        "metadata": metadata,
        # A session's metadata does not reach its payment, which refunds and disputes name.
        "payment_intent_data": {
            "metadata": metadata,
            "description": f"{request.credits} credits",
        },
        "adaptive_pricing": {"enabled": False},
        "expires_at": int(request.expires_at.timestamp()),
        "success_url": request.success_url,
        "cancel_url": request.cancel_url,
    }
    if settings.stripe_promotion_codes:
        params["allow_promotion_codes"] = True
    if settings.stripe_invoices:
        params["invoice_creation"] = {"enabled": True, "invoice_data": {"metadata": metadata}}
    if settings.stripe_tax:
        params |= {
            "automatic_tax": {"enabled": True},
            "customer_update": {"address": "auto", "name": "auto"},
            "tax_id_collection": {"enabled": True},
        }
    return params


def _session(found: Mapping[str, Any]) -> CheckoutSession:
    session = as_struct(found, theirs.Session)
    return CheckoutSession(
        id=session.id,
        state=_SESSION_STATES.get(session.status or "", SessionState.EXPIRED),
        is_paid=session.is_paid,
        is_one_time=session.mode == "payment",
        url=session.url,
        order_reference=session.client_reference_id,
        metadata=session.metadata,
        customer_id=session.customer,
        payment_id=session.payment_intent,
        invoice_id=session.invoice,
        currency=session.currency,
        amount_subtotal=session.amount_subtotal,
        amount_total=session.amount_total,
        created_at=datetime.fromtimestamp(session.created, UTC),
        items=tuple(
            SessionItem(item.price.id if item.price else None, item.quantity)
            for item in (session.line_items.data if session.line_items else [])
        ),
    )


def _return(found: Mapping[str, Any]) -> ProviderReturn:
    refund = as_struct(found, theirs.StripeRefund)
    return ProviderReturn(
        refund.id,
        amount=refund.amount,
        # A word that Stripe may add later still means that money is on its way back.
        state=ReturnState(refund.status if refund.status in _RETURN_STATES else "pending"),
        reason=refund.reason,
        failure_reason=refund.failure_reason,
        return_id=_uuid_or_none(refund.metadata.get(_RETURN_ID)),
    )


def _dispute(found: Mapping[str, Any]) -> Dispute:
    dispute = as_struct(found, theirs.StripeDispute)
    if dispute.status.startswith(_INQUIRY):
        state = DisputeState.INQUIRY
    else:
        # A word that Stripe may add later still means that the money is held.
        state = _ENDED_DISPUTES.get(dispute.status, DisputeState.OPEN)
    return Dispute(dispute.id, amount=dispute.amount, state=state, reason=dispute.reason)


def _uuid_or_none(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None
