"""Stripe's webhook: an event is verified on the raw bytes that were signed, before it is read."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import stripe
from pydantic import SecretStr

from core.errors import WebhookReason, WebhookRefusedError
from core.payments.stripe.types import ReceivedEvent, received_event
from core.settings import Settings

TOLERANCE_SECONDS: Final = 300


class _Data(msgspec.Struct, frozen=True):
    object: dict[str, Any]


class _Envelope(msgspec.Struct, frozen=True):
    id: str
    object: str
    type: str
    created: float
    livemode: bool
    data: _Data


def verify(settings: Settings, signature: str | None, body: bytes) -> ReceivedEvent:
    """The event in a signed body; any of the secrets will do.

    Raises: WebhookRefusedError for a signature that is none of ours, and for a signed body that
    is no event or belongs to the other mode (test or live).
    """
    if not _is_signed(settings.stripe_webhook_secrets, signature, body):
        raise WebhookRefusedError(reason=WebhookReason.SIGNATURE)
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT) from error
    if envelope.object != "event":
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT)
    if envelope.livemode != settings.stripe_is_live:
        raise WebhookRefusedError(reason=WebhookReason.OTHER_MODE)
    return received_event(msgspec.json.decode(body))


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
