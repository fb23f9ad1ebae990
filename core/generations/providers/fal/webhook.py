"""Proves that a webhook is fal's: ED25519 over the request id, user, time and raw body.

A verified webhook only means that a call ended: the result is fetched from fal.
Source: https://docs.fal.ai/model-apis/model-endpoints/webhooks
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from core.errors import NotAllowedError, WebhookReason
from core.generations.providers.fal.answers import read_json
from core.jwks import Entries, KeySet
from core.settings import Settings

REQUEST_ID = "x-fal-webhook-request-id"
USER_ID = "x-fal-webhook-user-id"
TIMESTAMP = "x-fal-webhook-timestamp"
SIGNATURE = "x-fal-webhook-signature"

CLOCK_SECONDS = 300  # fal's own tolerance
KEYS_SECONDS = 86_400.0  # fal's upper limit for keeping its key set
REFETCH_SECONDS = 30.0  # forged webhooks must not cause unlimited requests to fal
_RETRY_SECONDS = 1.0  # without any key; requests that waited for a failed fetch do not repeat it
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class VerifiedWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the webhook. Its body may lack everything but `request_id` and `user_id`.

    `gateway_request_id` differs from `request_id` when fal ran the request again by itself.
    """

    request_id: str
    user_id: str
    status: str | None
    gateway_request_id: str | None
    error: str | None
    payload: Any


class WebhookVerifier:
    """Holds the key set of one process."""

    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        *,
        now: Callable[[], float] = time.time,
        refetch_seconds: float = REFETCH_SECONDS,
    ) -> None:
        self._now = now
        self._keys = KeySet(
            http,
            settings.fal_jwks_url,
            what="fal_jwks",
            read=read_keys,
            fresh_seconds=KEYS_SECONDS,
            usable_seconds=KEYS_SECONDS,
            retry_seconds=_RETRY_SECONDS,
            refetch_seconds=refetch_seconds,
            now=now,
        )

    async def verify(self, headers: Mapping[str, str], raw_body: bytes) -> VerifiedWebhook:
        """The content of a genuine webhook. `headers` may be of any case.

        Raises: NotAllowedError (reason: webhook_header, webhook_timestamp, webhook_signature,
        webhook_request_id); TemporarilyUnavailableError without a usable key set.
        """
        lowered = {name.lower(): value for name, value in headers.items()}
        try:
            request_id, user_id, timestamp, signature_hex = (
                lowered[name] for name in (REQUEST_ID, USER_ID, TIMESTAMP, SIGNATURE)
            )
        except KeyError:
            raise NotAllowedError(reason=WebhookReason.HEADER) from None
        self._require_fresh(timestamp)
        signature = _read_signature(signature_hex)
        digest = hashlib.sha256(raw_body).hexdigest()
        message = f"{request_id}\n{user_id}\n{timestamp}\n{digest}".encode()
        if not await self._is_signed(signature, message):
            raise NotAllowedError(reason=WebhookReason.SIGNATURE)
        return _read_body(request_id, user_id, raw_body)

    def _require_fresh(self, timestamp: str) -> None:
        # Digits only: int() would also take signs, spaces and other scripts' digits.
        if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
            raise NotAllowedError(reason=WebhookReason.TIMESTAMP)
        if abs(self._now() - int(timestamp)) > CLOCK_SECONDS:
            raise NotAllowedError(reason=WebhookReason.TIMESTAMP)

    async def _is_signed(self, signature: bytes, message: bytes) -> bool:
        keys = await self._keys.get()
        if _matches(keys, signature, message):
            return True
        newer = await self._keys.get_newer(keys)
        return newer is not keys and _matches(newer, signature, message)


def read_keys(entries: Entries) -> list[Ed25519PublicKey]:
    """The ED25519 keys of a JWK set; whatever else is in it is passed over. Raises: ValueError."""
    found = [key for entry in entries if (key := _read_key(entry)) is not None]
    if not found:
        raise ValueError("no ED25519 key")
    return found


def _read_key(entry: Mapping[str, Any]) -> Ed25519PublicKey | None:
    encoded = entry.get("x")
    if not isinstance(encoded, str) or entry.get("crv", "Ed25519") != "Ed25519":
        return None
    bare = encoded.rstrip("=")  # JWKs come without padding, which the decoder insists on
    try:
        raw = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return Ed25519PublicKey.from_public_bytes(raw) if len(raw) == _KEY_BYTES else None


def _read_signature(signature_hex: str) -> bytes:
    try:
        signature = bytes.fromhex(signature_hex)
    except ValueError:
        signature = b""
    if len(signature) != _SIGNATURE_BYTES:
        raise NotAllowedError(reason=WebhookReason.SIGNATURE)
    return signature


def _matches(keys: list[Ed25519PublicKey], signature: bytes, message: bytes) -> bool:
    for key in keys:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False


def _read_body(request_id: str, user_id: str, raw_body: bytes) -> VerifiedWebhook:
    data = read_json(raw_body)
    body: dict[str, Any] = data if isinstance(data, dict) else {}
    said = body.get("request_id")
    if said is not None and said != request_id:
        raise NotAllowedError(reason=WebhookReason.REQUEST_ID)
    return VerifiedWebhook(
        request_id=request_id,
        user_id=user_id,
        status=_text(body.get("status")),
        gateway_request_id=_text(body.get("gateway_request_id")),
        error=_text(body.get("error")),
        payload=body.get("payload"),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
