"""A buyer's customer at the provider: made once, found again, and the page that shows it."""

import hashlib
import uuid
from typing import Final

import structlog

from core.db import Connection
from core.errors import NotFoundError, NotSetUpError, TemporarilyUnavailableError
from core.payments import queries
from core.payments.context import Buyer, CheckoutContext
from core.payments.keys import note_key
from core.payments.provider import (
    PaymentProviderError,
    ProviderKeyReusedError,
    ProviderNotConfiguredError,
    ProviderRefusedError,
    ProviderServerError,
    Refused,
)

log = structlog.get_logger()

_ATTEMPTS_MAX: Final = 4


async def create_customer(
    context: CheckoutContext, buyer: Buyer, *, attempt: int, replaces: str | None = None
) -> str:
    """The buyer's customer at the provider; `replaces` is one that the provider has lost. A
    failure that the provider stores with its key is left behind by the next `attempt`.

    Raises: PaymentProviderError. Replay: the same customer, also for two that create at once.
    """
    terms = hashlib.sha256(f"{buyer.email} {replaces}".encode()).hexdigest()[:12]
    made = await context.deadline.hold(
        context.provider.create_customer(
            buyer.user_id, buyer.email, key=f"customer:{buyer.user_id}:{terms}:{attempt}"
        )
    )
    return await context.db.run(
        lambda conn: queries.record_customer(conn, buyer.user_id, made, replaces=replaces)
    )


async def get_customer(conn: Connection, user_id: uuid.UUID) -> str:
    """Raises: NotFoundError when nothing was ever bought."""
    customer_id = await queries.find_customer(conn, user_id)
    if customer_id is None:
        raise NotFoundError(kind="customer")
    return customer_id


async def create_portal_url(
    context: CheckoutContext, buyer: Buyer, customer_id: str, *, visit_id: uuid.UUID
) -> str:
    """The provider's own page where the buyer sees payments, receipts and cards.

    Raises: NotSetUpError, TemporarilyUnavailableError. Replay: the same visit answers the same
    page.
    """
    try:
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                return await context.deadline.hold(
                    context.provider.create_portal_url(
                        customer_id,
                        return_url=context.landing_url,
                        key=f"portal:{visit_id}:{attempt}",
                    )
                )
            except (ProviderServerError, ProviderKeyReusedError):
                continue
            except ProviderRefusedError as error:
                if error.part is not Refused.CUSTOMER:
                    raise
                customer_id = await create_customer(
                    context, buyer, attempt=attempt, replaces=customer_id
                )
    except ProviderNotConfiguredError as error:
        log.error("payment.portal_not_configured")  # noqa: TRY400  the hint is in the guide
        raise NotSetUpError(what="portal") from error
    except PaymentProviderError as error:
        log.warning("payment.portal_failed", reason=error.reason)
        await note_key(context.db, error)
        raise TemporarilyUnavailableError(what="payments") from error
    raise TemporarilyUnavailableError(what="payments")
