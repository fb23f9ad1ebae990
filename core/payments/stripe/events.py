"""Stripe's events: verified on their raw bytes, kept, and handled by a look at the order.

An event only says that there is something to look at. What is done follows from Stripe's present
state, so duplicates, disorder and replays are harmless.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import stripe
import structlog
from pydantic import SecretStr

from core.db import Connection, Database, fetch_one
from core.errors import InvalidInputError, NotAllowedError
from core.payments import queries
from core.payments.stripe.client import StripeGateway, StripeRefusedError
from core.payments.sync import sync_order
from core.settings import Settings

log = structlog.get_logger()

TOLERANCE_SECONDS: Final = 300
KEPT_DAYS: Final = 30
"""A handled event holds a name and an address; Stripe itself lists events for as long."""
SESSION_TYPES: Final = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
    }
)
REVERSAL_TYPES: Final = (
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)
NOTED_TYPES: Final = frozenset(
    {"payment_intent.payment_failed", "radar.early_fraud_warning.created"}
)
KNOWN_TYPES: Final = SESSION_TYPES | NOTED_TYPES | frozenset(REVERSAL_TYPES)


class _Data(msgspec.Struct, frozen=True):
    object: dict[str, Any]


class _Envelope(msgspec.Struct, frozen=True):
    id: str
    object: str
    type: str
    created: float
    livemode: bool
    data: _Data


def verify(settings: Settings, signature: str | None, body: bytes) -> dict[str, Any]:
    """The event in a signed body; any of the secrets will do.

    Raises: NotAllowedError for a signature that is none of ours, InvalidInputError for a signed
    body that is no event or belongs to the other mode (test or live).
    """
    if not _is_signed(settings.stripe_webhook_secrets, signature, body):
        raise NotAllowedError(reason="webhook_signature")
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInputError(field="body", reason="not an event of Stripe") from error
    if envelope.object != "event":
        raise InvalidInputError(field="object", reason="not an event of Stripe")
    if envelope.livemode != settings.stripe_is_live:
        raise InvalidInputError(field="livemode", reason="an event of the other mode")
    event: dict[str, Any] = msgspec.json.decode(body)
    return event


def _is_signed(secrets: Sequence[SecretStr], signature: str | None, body: bytes) -> bool:
    # Every secret is tried: during a rotation two are valid, and a second endpoint has its own.
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(
                body.decode(), signature or "", secret.get_secret_value(), TOLERANCE_SECONDS
            )
        except (stripe.SignatureVerificationError, ValueError):
            continue
        return True
    return False


async def receive(conn: Connection, event: dict[str, Any]) -> uuid.UUID | None:
    """Keep a verified event and want it handled; the task, or None when there is nothing to do."""
    if event["type"] not in KNOWN_TYPES:
        return None
    return await queries.receive_event(conn, event, "webhook")


async def handle(
    db: Database, gateway: StripeGateway, event_id: str, *, lease_token: uuid.UUID | None = None
) -> None:
    """What an event is about is looked at; the event is marked in the transaction of the effect.

    Raises: StripeError, RetryableError, LeaseLostError.
    """
    found = await db.run(lambda conn: queries.find_event(conn, event_id))
    if found is None or found["handled_at"] is not None:
        await db.run(
            lambda conn: queries.finish_event(
                conn, event_id, found["outcome"] if found else "gone", None, lease_token
            )
        )
        return
    kind: str = found["type"]
    subject: dict[str, Any] = found["payload"]["data"]["object"]
    order_id = await _order_of(db, gateway, kind, subject)
    if kind == "charge.dispute.created":
        log.error("payment.disputed", order_id=str(order_id), dispute_id=subject.get("id"))
    if order_id is None or kind in NOTED_TYPES:
        outcome = "noted" if order_id is not None else "ignored: no order of ours"
        log.info("stripe_event.passed_over", event_id=event_id, type=kind, outcome=outcome)
        await db.run(
            lambda conn: queries.finish_event(conn, event_id, outcome, order_id, lease_token)
        )
        return
    await sync_order(
        db,
        gateway,
        order_id,
        session_id=subject["id"] if kind in SESSION_TYPES else None,
        event_id=event_id,
        lease_token=lease_token,
    )


async def replay(
    conn: Connection,
    *,
    ids: list[str] | None = None,
    received_from: Any = None,
    received_to: Any = None,
    types: list[str] | None = None,
    limit: int,
) -> list[str]:
    """Put events back to work; their ids. Audited. Runs as the admin.

    Raises: NotAllowedError.
    """
    cursor = await conn.execute(
        "select app.replay_stripe_events(%s, %s, %s, %s, %s) as id",
        (ids, received_from, received_to, types, limit),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def prune(conn: Connection, *, lease_token: uuid.UUID) -> int:
    """Delete what was handled more than KEPT_DAYS ago and complete the task; how many."""
    row = await fetch_one(
        conn, "select app.prune_stripe_events(%s, %s) as pruned", (KEPT_DAYS, lease_token)
    )
    assert row is not None
    return int(row["pruned"])


async def _order_of(
    db: Database, gateway: StripeGateway, kind: str, subject: Mapping[str, Any]
) -> uuid.UUID | None:
    """Ours by the ids that we stored; the reference in Stripe's own object is the fallback."""
    if kind in SESSION_TYPES:
        session_id = str(subject.get("id"))
        known = await db.run(lambda conn: queries.find_order_by_session(conn, session_id))
        return known or await find_existing(db, subject.get("client_reference_id"))
    payment_intent = subject.get("id") if kind.startswith("payment_intent.") else None
    payment_intent = payment_intent or subject.get("payment_intent")
    if not isinstance(payment_intent, str):
        return None
    known = await db.run(lambda conn: queries.find_order_by_payment_intent(conn, payment_intent))
    if known is not None:
        return known
    try:
        intent = await gateway.get_payment_intent(payment_intent)
    except StripeRefusedError:
        return None
    return await find_existing(db, intent.metadata.get("order_id"))


async def find_existing(db: Database, reference: object) -> uuid.UUID | None:
    try:
        order_id = uuid.UUID(str(reference))
    except ValueError:
        return None
    row = await db.run(lambda conn: queries.find_order(conn, order_id))
    return None if row is None else order_id
