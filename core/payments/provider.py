"""The seam to providers of payments: their calls, answers and errors in the product's own words.

`core/payments/stripe` implements `PaymentProvider`. Everything else in core/payments uses only
what is declared here. No provider is called inside a transaction.

Amounts of money are in the currency's smallest unit.
"""

import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Protocol

import msgspec

from core.errors import FailureKind
from core.payments.types import DisputeState, ReturnState

# --- errors ----------------------------------------------------------------------------------


class PaymentProviderError(Exception):
    """Base. `reason` is a stable word, never the provider's text."""

    failure_kind: ClassVar[FailureKind] = FailureKind.ERROR
    """How the runner counts it where it makes a task run again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProviderUnavailableError(PaymentProviderError):
    """No answer, too many requests or a broken one: the outcome may be unknown. Same key again."""

    failure_kind = FailureKind.ABSENT


class ProviderServerError(ProviderUnavailableError):
    """A failure that may be stored under its key: the next call needs a new key."""


class ProviderAnswerError(PaymentProviderError):
    """An answer that we cannot read: something in it is not as the provider documents it."""


class Refused(StrEnum):
    """What of a refused call the provider does not take."""

    CUSTOMER = "customer"  # there is none, or it was deleted
    PRICE = "price"  # there is none, or it is archived
    EXPIRY = "expiry"  # too little of the page's time is left
    SUBJECT = "subject"  # what the call was about does not exist


class ProviderRefusedError(PaymentProviderError):
    """The provider refused the call; `part` is what of it, where something can be done about it."""

    def __init__(self, reason: str, part: Refused | None = None) -> None:
        super().__init__(reason)
        self.part = part


class ProviderNotConfiguredError(ProviderRefusedError):
    """The account at the provider was not set up for this: see scripts/stripe_setup.py."""


class ProviderKeyReusedError(PaymentProviderError):
    """The idempotency key was used with other parameters."""


class ProviderCredentialsError(PaymentProviderError):
    """Our key is wrong or may not do this: a matter for the operator."""

    failure_kind = FailureKind.ABSENT


# --- answers ----------------------------------------------------------------------------------


class Price(msgspec.Struct, frozen=True):
    id: str
    unit_amount: int | None
    currency: str | None


class SessionState(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    EXPIRED = "expired"


class SessionItem(msgspec.Struct, frozen=True):
    price_id: str | None
    quantity: int | None


class CheckoutSession(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's page for one attempt at an order. `order_reference` and `metadata` are what
    it was created with, if it is one of ours."""

    id: str
    state: SessionState
    is_paid: bool
    is_one_time: bool
    url: str | None = None
    order_reference: str | None = None
    metadata: dict[str, str] = {}
    customer_id: str | None = None
    payment_id: str | None = None
    invoice_id: str | None = None
    currency: str | None = None
    amount_subtotal: int | None = None
    amount_total: int | None = None
    created_at: datetime
    items: tuple[SessionItem, ...] = ()
    tax_in_subtotal: int = 0
    """Of an inclusive price: what of the price is tax."""


class ProviderPayment(msgspec.Struct, frozen=True):
    """The payment of a session. `failure_reason` is a word if it failed."""

    id: str
    order_reference: str | None
    failure_reason: str | None


class Invoice(msgspec.Struct, frozen=True):
    id: str
    url: str | None
    pdf_url: str | None


class ProviderCharge(msgspec.Struct, frozen=True):
    """What a payment was charged to. `card_fingerprint` is the same for the same card, whoever
    pays with it; other methods have none."""

    id: str
    receipt_url: str | None
    method: str | None
    card_fingerprint: str | None


class ProviderReturn(msgspec.Struct, frozen=True):
    """Money on its way back. `return_id` names our own return, if it was made for one."""

    id: str
    payment_id: str
    amount: int
    state: ReturnState
    reason: str | None
    failure_reason: str | None
    return_id: uuid.UUID | None


class Dispute(msgspec.Struct, frozen=True):
    """`is_answer_due`: the bank waits for the shop's evidence, until `evidence_due_at`."""

    id: str
    payment_id: str
    amount: int
    state: DisputeState
    reason: str | None
    is_answer_due: bool
    evidence_due_at: datetime | None


class FraudWarning(msgspec.Struct, frozen=True):
    """A bank's report that a payment was fraudulent, usually before it is disputed."""

    id: str
    payment_id: str | None
    charge_id: str
    fraud_type: str
    is_actionable: bool
    created_at: datetime


# --- requests ---------------------------------------------------------------------------------


class SessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """All of it follows from the order's row: the same attempt always sends the same."""

    order_id: uuid.UUID
    user_id: uuid.UUID
    pack_slug: str
    credits: int
    price_id: str
    customer_id: str
    expires_at: datetime
    success_url: str
    cancel_url: str


class ReturnRequest(msgspec.Struct, frozen=True, kw_only=True):
    return_id: uuid.UUID
    order_id: uuid.UUID
    payment_id: str
    amount: int


class PaymentProvider(Protocol):
    """Each call raises a PaymentProviderError. `key` makes a repeated call find the first one."""

    async def check_key(self) -> None:
        """A call that changes nothing: whether the provider takes our key."""

    async def find_price(self, lookup_key: str) -> Price | None:
        """The active price of a pack; cached for an hour, or until `discard_prices`."""

    def discard_prices(self) -> None: ...

    async def create_customer(self, user_id: uuid.UUID, email: str | None, *, key: str) -> str: ...

    async def create_session(self, request: SessionRequest, *, key: str) -> CheckoutSession: ...

    async def get_session(self, session_id: str) -> CheckoutSession:
        """With its items, which no other call returns."""

    async def expire_session(self, session_id: str) -> CheckoutSession: ...

    def list_sessions(
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        is_complete: bool = False,
        customer_id: str | None = None,
    ) -> AsyncIterator[CheckoutSession]:
        """Those created from `since` on and before `until`, newest first."""

    async def get_payment(self, payment_id: str) -> ProviderPayment: ...

    async def find_charge(self, payment_id: str) -> ProviderCharge | None: ...

    async def get_invoice(self, invoice_id: str) -> Invoice: ...

    async def list_returns(self, payment_id: str) -> list[ProviderReturn]: ...

    async def list_disputes(self, payment_id: str) -> list[Dispute]: ...

    async def find_fraud_warning(self, warning_id: str) -> FraudWarning | None: ...

    def list_returns_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[ProviderReturn]:
        """All of the account, created from `since` on and before `until`."""

    def list_disputes_between(self, since: datetime, until: datetime) -> AsyncIterator[Dispute]:
        """All of the account, created from `since` on and before `until`."""

    async def create_return(self, request: ReturnRequest, *, key: str) -> ProviderReturn: ...

    async def find_credit_note(self, invoice_id: str, provider_return_id: str) -> str | None:
        """The credit note of an invoice that a return stands on."""

    async def create_credit_note(
        self, invoice_id: str, provider_return_id: str, amount: int, *, key: str
    ) -> str: ...

    async def create_portal_url(self, customer_id: str, *, return_url: str, key: str) -> str:
        """A short-lived page where a buyer sees payments, receipts and cards."""
