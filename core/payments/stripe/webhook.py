"""Stripe's webhook: an event is verified on the raw bytes that were signed, before it is read."""

import hmac
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from pydantic import SecretStr

from core.errors import WebhookReason, WebhookRefusedError
from core.nesting import is_too_deep
from core.payments.stripe.types import ReceivedEvent, received_event
from core.settings import Settings

TOLERANCE_SECONDS: Final = 300
_SIGNATURES_MAX: Final = 16
_TIME_DIGITS_MAX: Final = 12


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
    if is_too_deep(body):
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT)
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
        payload = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT) from error
    if envelope.object != "event":
        raise WebhookRefusedError(reason=WebhookReason.NOT_AN_EVENT)
    if envelope.livemode != settings.stripe_is_live:
        raise WebhookRefusedError(reason=WebhookReason.OTHER_MODE)
    return received_event(payload)


def _is_signed(secrets: Sequence[SecretStr], signature: str | None, body: bytes) -> bool:
    """Source: https://docs.stripe.com/webhooks#verify-manually

    Not by the library's function: it takes times in the future, of any distance, and fails on
    characters beyond ASCII.
    """
    fields = [part.strip().partition("=") for part in (signature or "").split(",")]
    times = [value for name, _, value in fields if name == "t"]
    if len(times) != 1 or not _is_recent(times[0]):
        return False
    signed = times[0].encode() + b"." + body
    offered = [value.encode() for name, _, value in fields if name == "v1"][:_SIGNATURES_MAX]
    # Every secret is tried: during a rotation two are valid, and a second endpoint has its own.
    wanted = [
        hmac.digest(secret.get_secret_value().encode(), signed, "sha256").hex().encode()
        for secret in secrets
    ]
    matches = [hmac.compare_digest(one, other) for one in wanted for other in offered]
    return any(matches)


def _is_recent(text: str) -> bool:
    """Neither old nor ahead. Digits only: int() would also take signs and other scripts' digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _TIME_DIGITS_MAX):
        return False
    return abs(time.time() - int(text)) <= TOLERANCE_SECONDS
