"""What is asked of Stripe in its words, and its objects in those of the seam to providers."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from core.payments.provider import (
    CheckoutSession,
    Dispute,
    FraudWarning,
    ProviderReturn,
    SessionItem,
    SessionRequest,
    SessionState,
)
from core.payments.stripe import types as theirs
from core.payments.stripe.types import as_struct
from core.payments.types import DisputeState, ReturnState
from core.settings import Settings

_RETURN_STATES: Final = frozenset({"pending", "requires_action", "succeeded", "failed", "canceled"})
_SESSION_STATES: Final = {state.value: state for state in SessionState}
_INQUIRY: Final = "warning_"
_ENDED_DISPUTES: Final = {
    "won": DisputeState.WON,
    "lost": DisputeState.LOST,
    "prevented": DisputeState.PREVENTED,
}
RETURN_ID: Final = "return_id"
_NEEDS_ANSWER: Final = "needs_response"


def session_params(settings: Settings, request: SessionRequest) -> dict[str, Any]:
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
    if settings.stripe_invoices or settings.stripe_tax:
        # Without the buyer's address and tax number an invoice is none for a business.
        params |= {
            "billing_address_collection": "required",
            "customer_update": {"address": "auto", "name": "auto"},
            "tax_id_collection": {"enabled": True},
        }
    if settings.stripe_tax:
        params["automatic_tax"] = {"enabled": True}
    return params


def session_of(found: Mapping[str, Any]) -> CheckoutSession:
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
        tax_in_subtotal=_tax_in_subtotal(session),
    )


def _tax_in_subtotal(session: theirs.Session) -> int:
    items = session.line_items.data if session.line_items else []
    is_inclusive = any(item.price and item.price.tax_behavior == "inclusive" for item in items)
    return (session.total_details.amount_tax or 0) if is_inclusive and session.total_details else 0


def fraud_warning_of(found: Mapping[str, Any]) -> FraudWarning:
    warning = as_struct(found, theirs.StripeFraudWarning)
    return FraudWarning(
        warning.id,
        payment_id=warning.payment_intent,
        charge_id=warning.charge,
        fraud_type=warning.fraud_type,
        is_actionable=warning.actionable,
        created_at=datetime.fromtimestamp(warning.created, UTC),
    )


def payment_of(found: Mapping[str, Any]) -> str | None:
    """The payment that a refund or a dispute names; one of another origin names none."""
    named = found.get("payment_intent")
    named = named.get("id") if isinstance(named, dict) else named
    return named if isinstance(named, str) else None


def return_of(found: Mapping[str, Any], payment_id: str) -> ProviderReturn:
    refund = as_struct(found, theirs.StripeRefund)
    return ProviderReturn(
        refund.id,
        payment_id=payment_id,
        amount=refund.amount,
        # A word that Stripe may add later still means that money is on its way back.
        state=ReturnState(refund.status if refund.status in _RETURN_STATES else "pending"),
        reason=refund.reason,
        failure_reason=refund.failure_reason,
        return_id=_uuid_or_none(refund.metadata.get(RETURN_ID)),
    )


def dispute_of(found: Mapping[str, Any], payment_id: str) -> Dispute:
    dispute = as_struct(found, theirs.StripeDispute)
    if dispute.status.startswith(_INQUIRY):
        state = DisputeState.INQUIRY
    else:
        # A word that Stripe may add later still means that the money is held.
        state = _ENDED_DISPUTES.get(dispute.status, DisputeState.OPEN)
    due_by = dispute.evidence_details.due_by if dispute.evidence_details else None
    return Dispute(
        dispute.id,
        payment_id=payment_id,
        amount=dispute.amount,
        state=state,
        reason=dispute.reason,
        is_answer_due=_NEEDS_ANSWER in dispute.status,
        evidence_due_at=datetime.fromtimestamp(due_by, UTC) if due_by else None,
    )


def _uuid_or_none(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None
