"""Stripe as the product's PaymentProvider: its words in, ours out.

Uses no database, and is never called inside a transaction.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import httpx
import msgspec

from core.payments.provider import (
    CheckoutSession,
    Dispute,
    FraudWarning,
    Invoice,
    Price,
    ProviderAnswerError,
    ProviderCharge,
    ProviderCredentialsError,
    ProviderPayment,
    ProviderRefusedError,
    ProviderReturn,
    ReturnRequest,
    SessionRequest,
)
from core.payments.stripe import types as theirs
from core.payments.stripe.objects import (
    RETURN_ID,
    dispute_of,
    fraud_warning_of,
    payment_of,
    return_of,
    session_of,
    session_params,
)
from core.payments.stripe.types import as_struct
from core.payments.stripe.wire import CLICK, MAY_NOT, Patience, call, library_client, pages
from core.settings import Settings

# States of a payment whose session is complete: with a slow method it may still fail.
_ENDED_UNPAID: Final = frozenset({"requires_payment_method", "canceled"})
# How long what the operator has set up is taken from memory.
_SET_UP_SECONDS: Final = 3600.0
# Marks what scripts/stripe_setup.py has made.
SET_UP_BY: Final = {"set_up_by": "jewelshot"}


class StripeClient:
    """One a process and event loop. Every call raises a PaymentProviderError."""

    def __init__(
        self,
        settings: Settings,
        *,
        patience: Patience = CLICK,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._patience = patience
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(patience.try_seconds, connect=3),
            follow_redirects=False,
        )
        self.v1 = library_client(settings, self._http).v1
        self._prices: dict[str, tuple[Price, float]] = {}
        self._portal: tuple[str | None, float] | None = None

    async def close(self) -> None:
        await self._http.aclose()

    async def check_key(self) -> None:
        await self._call(self.v1.checkout.sessions.list_async, {"limit": 1})

    async def find_price(self, lookup_key: str) -> Price | None:
        known, read_at = self._prices.get(lookup_key, (None, 0.0))
        if known is not None and time.monotonic() < read_at + _SET_UP_SECONDS:
            return known
        self._prices.pop(lookup_key, None)
        params: Any = {"lookup_keys": [lookup_key], "active": True, "limit": 1}
        for found in (await self._call(self.v1.prices.list_async, params))["data"]:
            price = as_struct(found, theirs.Price)
            known = Price(price.id, price.unit_amount, price.currency)
            self._prices[lookup_key] = known, time.monotonic()
            return known
        return None

    def discard_prices(self) -> None:
        self._prices.clear()

    async def create_customer(self, user_id: uuid.UUID, email: str | None, *, key: str) -> str:
        params: dict[str, Any] = {"metadata": {"user_id": str(user_id)}}
        if email is not None:
            params["email"] = email
        made = await self._call(self.v1.customers.create_async, params, {"idempotency_key": key})
        customer_id: str = made["id"]
        return customer_id

    async def create_session(self, request: SessionRequest, *, key: str) -> CheckoutSession:
        params = session_params(self._settings, request)
        create = self.v1.checkout.sessions.create_async
        made = await self._call(create, params, {"idempotency_key": key})
        return session_of(made)

    async def get_session(self, session_id: str) -> CheckoutSession:
        found = await self._call(
            self.v1.checkout.sessions.retrieve_async, session_id, {"expand": ["line_items"]}
        )
        if not (found.get("line_items") or {}).get("data"):
            found["line_items"] = await self._call(
                self.v1.checkout.sessions.line_items.list_async, session_id, {"limit": 10}
            )
        return session_of(found)

    async def expire_session(self, session_id: str) -> CheckoutSession:
        return session_of(await self._call(self.v1.checkout.sessions.expire_async, session_id))

    async def list_sessions(
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        is_complete: bool = False,
        customer_id: str | None = None,
    ) -> AsyncIterator[CheckoutSession]:
        params: dict[str, Any] = {"created": _between(since, until)}
        if is_complete:
            params["status"] = "complete"
        if customer_id is not None:
            params["customer"] = customer_id
        async for found in self._pages(self.v1.checkout.sessions.list_async, params):
            yield session_of(found)

    async def get_payment(self, payment_id: str) -> ProviderPayment:
        intent = await self._get_intent(payment_id)
        error = intent.last_payment_error
        word = (error and (error.decline_code or error.code)) or "payment_failed"
        return ProviderPayment(
            intent.id,
            order_reference=intent.metadata.get("order_id"),
            failure_reason=word if intent.status in _ENDED_UNPAID else None,
        )

    async def find_charge(self, payment_id: str) -> ProviderCharge | None:
        intent = await self._get_intent(payment_id)
        if intent.latest_charge is None:
            return None
        charge = await self._get_charge(intent.latest_charge)
        how = charge.payment_method_details
        return ProviderCharge(
            charge.id,
            receipt_url=charge.receipt_url,
            method=(how.type if how else None) or "unknown",
            card_fingerprint=how.card.fingerprint if how and how.card else None,
        )

    async def get_invoice(self, invoice_id: str) -> Invoice:
        found = await self._call(self.v1.invoices.retrieve_async, invoice_id)
        invoice = as_struct(found, theirs.Invoice)
        return Invoice(invoice.id, url=invoice.hosted_invoice_url, pdf_url=invoice.invoice_pdf)

    async def list_returns(self, payment_id: str) -> list[ProviderReturn]:
        found = self._pages(self.v1.refunds.list_async, {"payment_intent": payment_id})
        return [return_of(each, payment_id) async for each in found]

    async def list_disputes(self, payment_id: str) -> list[Dispute]:
        found = self._pages(self.v1.disputes.list_async, {"payment_intent": payment_id})
        return [dispute_of(each, payment_id) async for each in found]

    async def list_returns_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[ProviderReturn]:
        params = {"created": _between(since, until)}
        async for found in self._pages(self.v1.refunds.list_async, params):
            if (payment_id := payment_of(found)) is not None:
                yield return_of(found, payment_id)

    async def list_disputes_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[Dispute]:
        params = {"created": _between(since, until)}
        async for found in self._pages(self.v1.disputes.list_async, params):
            if (payment_id := payment_of(found)) is not None:
                yield dispute_of(found, payment_id)

    async def find_fraud_warning(self, warning_id: str) -> FraudWarning | None:
        """None where there is none, or the key may not read warnings."""
        found = None
        with _where_there_and_allowed():
            found = await self._call(self.v1.radar.early_fraud_warnings.retrieve_async, warning_id)
        if found is None:
            return None
        warning = fraud_warning_of(found)
        if warning.payment_id is None:
            charge = await self._get_charge(warning.charge_id)
            warning = msgspec.structs.replace(warning, payment_id=charge.payment_intent)
        return warning

    async def create_return(self, request: ReturnRequest, *, key: str) -> ProviderReturn:
        params = {
            "payment_intent": request.payment_id,
            "amount": request.amount,
            "reason": "requested_by_customer",
            "metadata": {RETURN_ID: str(request.return_id), "order_id": str(request.order_id)},
        }
        made = await self._call(self.v1.refunds.create_async, params, {"idempotency_key": key})
        return return_of(made, request.payment_id)

    async def find_credit_note(self, invoice_id: str, provider_return_id: str) -> str | None:
        found = self._pages(self.v1.credit_notes.list_async, {"invoice": invoice_id})
        async for note in found:
            if any(_refund_of(link) == provider_return_id for link in note.get("refunds") or ()):
                return str(note["id"])
        return None

    async def create_credit_note(
        self, invoice_id: str, provider_return_id: str, amount: int, *, key: str
    ) -> str:
        params: Any = {
            "invoice": invoice_id,
            "amount": amount,
            "refunds": [{"refund": provider_return_id, "amount_refunded": amount}],
        }
        create = self.v1.credit_notes.create_async
        return str((await self._call(create, params, {"idempotency_key": key}))["id"])

    async def create_portal_url(self, customer_id: str, *, return_url: str, key: str) -> str:
        params: Any = {"customer": customer_id, "return_url": return_url}
        configuration_id = await self.find_portal_configuration()
        if configuration_id is not None:
            params["configuration"] = configuration_id
        create = self.v1.billing_portal.sessions.create_async
        url: str = (await self._call(create, params, {"idempotency_key": key}))["url"]
        return url

    async def find_portal_configuration(self) -> str | None:
        """What scripts/stripe_setup.py has made. Without it that of the Dashboard counts."""
        known, read_at = self._portal or (None, 0.0)
        if self._portal is None or time.monotonic() > read_at + _SET_UP_SECONDS:
            known = await self._read_portal_configuration()
            self._portal = known, time.monotonic()
        return known

    def discard_portal(self) -> None:
        self._portal = None

    async def _read_portal_configuration(self) -> str | None:
        list_ = self.v1.billing_portal.configurations.list_async
        with _where_there_and_allowed():
            async for found in self._pages(list_, {"active": True}):
                if SET_UP_BY.items() <= (found.get("metadata") or {}).items():
                    return str(found["id"])
        return None

    async def list_events(
        self, types: Sequence[str], *, since: datetime
    ) -> AsyncIterator[dict[str, Any]]:
        """Stripe's own log, which reaches back 30 days; newest first."""
        params = {"types": list(types), "created": _between(since, None)}
        async for event in self._pages(self.v1.events.list_async, params):
            yield event

    async def _get_intent(self, payment_id: str) -> theirs.PaymentIntent:
        found = await self._call(self.v1.payment_intents.retrieve_async, payment_id)
        return as_struct(found, theirs.PaymentIntent)

    async def _get_charge(self, charge_id: str) -> theirs.Charge:
        found = await self._call(self.v1.charges.retrieve_async, charge_id)
        return as_struct(found, theirs.Charge)

    async def _call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> dict[str, Any]:
        return await call(function, *args, patience=self._patience)

    def _pages(
        self, function: Callable[..., Awaitable[Any]], params: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        return pages(function, params, patience=self._patience)


@contextlib.contextmanager
def _where_there_and_allowed() -> Iterator[None]:
    """What Stripe does not have, or a key without this permission may not read."""
    try:
        yield
    except (ProviderRefusedError, ProviderAnswerError):
        pass
    except ProviderCredentialsError as error:
        if error.reason != MAY_NOT:
            raise


def _between(since: datetime, until: datetime | None) -> dict[str, int]:
    """Of `created`: from `since` on, and before `until` where there is one."""
    end = {} if until is None else {"lt": int(until.timestamp())}
    return {"gte": int(since.timestamp())} | end


def _refund_of(link: Mapping[str, Any]) -> str | None:
    refund = link.get("refund")
    return refund.get("id") if isinstance(refund, dict) else refund
