"""Credit notes: an invoice that was paid stays paid, and what went back of it stands on a note.

The accounts of a shop, and its tax, follow from the papers. They never hold up the money.
"""

import uuid

import structlog

from core.db import Connection, Database
from core.payments import return_queries, returns, service
from core.payments.provider import (
    PaymentProvider,
    ProviderAnswerError,
    ProviderCredentialsError,
    ProviderRefusedError,
)
from core.payments.types import Order, Return, ReturnState

log = structlog.get_logger()


async def write_credit_note(
    db: Database, provider: PaymentProvider, return_id: uuid.UUID, *, attempt: int
) -> None:
    """The credit note of a return that reached its buyer, once. For the worker.

    Raises: NotFoundError, PaymentProviderError.
    Replay: a note that the provider has for this return is found and not written again.
    """

    async def load(conn: Connection) -> tuple[Return, Order]:
        made = await returns.get_return(conn, return_id)
        return made, await service.get_order(conn, made.order_id)

    made, order = await db.run(load)
    refund_id, invoice_id = made.provider_return_id, order.invoice_id
    if made.state is not ReturnState.SUCCEEDED or refund_id is None or invoice_id is None:
        return
    note_id: str | None = None
    refused: str | None = None
    try:
        note_id = await provider.find_credit_note(invoice_id, refund_id)
        if note_id is None:
            note_id = await provider.create_credit_note(
                invoice_id, refund_id, made.amount, key=f"credit_note:{refund_id}:{attempt}"
            )
    except (ProviderRefusedError, ProviderCredentialsError, ProviderAnswerError) as error:
        refused = error.reason
        log.warning("payment.credit_note_refused", return_id=str(return_id), reason=refused)
    await db.run(
        lambda conn: return_queries.note_return(conn, return_id, note_id=note_id, refused=refused)
    )
