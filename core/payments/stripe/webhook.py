"""Stripe's webhook: an event is verified on the raw bytes that were signed, before it is read."""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import stripe
from pydantic import SecretStr

from core.errors import WebhookReason, WebhookRefusedError
from core.payments.stripe.types import ReceivedEvent, received_event
from core.settings import Settings

TOLERANCE_SECONDS: Final = 300
# Stripe's own objects are some ten deep.
DEPTH_MAX: Final = 100


class _Object(msgspec.Struct, frozen=True):
    id: str | None = None


class _Data(msgspec.Struct, frozen=True):
    object: _Object


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
        payload = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT) from error
    if envelope.object != "event" or _is_deeper_than(DEPTH_MAX, payload):
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT)
    if envelope.livemode != settings.stripe_is_live:
        raise WebhookRefusedError(reason=WebhookReason.OTHER_MODE)
    return received_event(payload)


def _is_signed(secrets: Sequence[SecretStr], signature: str | None, body: bytes) -> bool:
    if signature is None or not signature.isascii() or _is_ahead(signature):
        return False
    # Every secret is tried: during a rotation two are valid, and a second endpoint has its own.
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(
                body.decode(), signature, secret.get_secret_value(), TOLERANCE_SECONDS
            )
        except (stripe.SignatureVerificationError, ValueError):
            continue
        return True
    return False


def _is_ahead(signature: str) -> bool:
    """The library only refuses what is too old: a signature of tomorrow would be good for a day."""
    times = [part[2:] for part in signature.split(",") if part.startswith("t=")]
    return any(not at.isdecimal() or int(at) > time.time() + TOLERANCE_SECONDS for at in times)


def _is_deeper_than(depth_max: int, value: Any) -> bool:
    level = [value]
    for _ in range(depth_max):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
