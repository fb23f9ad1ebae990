"""Signed webhooks: the ED25519 key, its JWKS, and delivery with retries.

The signature covers `request_id\\nuser_id\\ntimestamp\\nhex(sha256(body))`; a 2xx answer is a
delivery, a redirect ends it for good, anything else is tried again on the schedule.
"""

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sandbox.kit.guard import SandboxRefusedError, require_loopback
from sandbox.kit.tls import tls_context

KEY_FILE = "webhook_key.raw"
REQUEST_ID = "x-fal-webhook-request-id"
USER_ID = "x-fal-webhook-user-id"
TIMESTAMP = "x-fal-webhook-timestamp"
SIGNATURE = "x-fal-webhook-signature"


def _raw_private(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def signed_message(request_id: str, user_id: str, timestamp: str, body: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    return f"{request_id}\n{user_id}\n{timestamp}\n{digest}".encode()


class Signer:
    """The newest key signs; older ones stay in the JWKS while they are kept."""

    def __init__(self, state_dir: Path | None) -> None:
        self._path = state_dir / KEY_FILE if state_dir is not None else None
        self._keys = [self._load()]

    def _load(self) -> Ed25519PrivateKey:
        if self._path is not None and self._path.exists():
            return Ed25519PrivateKey.from_private_bytes(self._path.read_bytes())
        key = Ed25519PrivateKey.generate()
        self._save(key)
        return key

    def _save(self, key: Ed25519PrivateKey) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_raw_private(key))

    def rotate(self, *, keep_old: bool) -> None:
        key = Ed25519PrivateKey.generate()
        self._keys = [key, *self._keys] if keep_old else [key]
        self._save(key)

    def jwks(self) -> dict[str, Any]:
        keys = []
        for key in self._keys:
            raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            keys.append(
                {
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "use": "sig",
                    "kid": hashlib.sha256(raw).hexdigest()[:16],
                    "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
                }
            )
        return {"keys": keys}

    def headers(
        self, *, request_id: str, user_id: str, body: bytes, forged: bool = False
    ) -> dict[str, str]:
        timestamp = str(int(time.time()))
        key = Ed25519PrivateKey.generate() if forged else self._keys[0]
        signature = key.sign(signed_message(request_id, user_id, timestamp, body))
        return {
            REQUEST_ID: request_id,
            USER_ID: user_id,
            TIMESTAMP: timestamp,
            SIGNATURE: signature.hex(),
        }


class Delivery(msgspec.Struct, kw_only=True):
    """One webhook to send, and the outcome of each attempt."""

    url: str
    request_id: str
    user_id: str
    body: bytes
    delay_seconds: float = 0.0
    copies: int = 1
    gap_seconds: float = 0.1
    signed: bool = True
    forged: bool = False
    attempts: list[dict[str, Any]] = []
    delivered: bool = False


class WebhookSender:
    def __init__(
        self,
        signer: Signer,
        *,
        timeout_seconds: float,
        transport: httpx.AsyncBaseTransport | None,
        extra_hosts: frozenset[str],
    ) -> None:
        self._signer = signer
        self._extra_hosts = extra_hosts
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds,
            transport=transport,
            verify=tls_context(),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def is_allowed(self, url: str) -> bool:
        host = urlsplit(url).hostname or ""
        if host in self._extra_hosts:
            return True
        try:
            require_loopback(host)
        except SandboxRefusedError:
            return False
        return True

    async def deliver(self, delivery: Delivery, schedule_seconds: Sequence[float]) -> None:
        if not self.is_allowed(delivery.url):
            delivery.attempts.append({"at": time.time(), "error": "host not allowed"})
            return
        await asyncio.sleep(delivery.delay_seconds)
        for copy in range(delivery.copies):
            if copy:
                await asyncio.sleep(delivery.gap_seconds)
            await self._deliver_once(delivery, schedule_seconds)

    async def _deliver_once(self, delivery: Delivery, schedule_seconds: Sequence[float]) -> None:
        for pause in schedule_seconds:
            if pause:
                await asyncio.sleep(pause)
            status = await self._post(delivery)
            if status is not None and 200 <= status < 300:
                delivery.delivered = True
                return
            if status is not None and 300 <= status < 400:
                return

    async def _post(self, delivery: Delivery) -> int | None:
        headers = {"content-type": "application/json", "user-agent": "fal-webhook/sandbox"}
        if delivery.signed:
            headers |= self._signer.headers(
                request_id=delivery.request_id,
                user_id=delivery.user_id,
                body=delivery.body,
                forged=delivery.forged,
            )
        attempt: dict[str, Any] = {"at": time.time()}
        delivery.attempts.append(attempt)
        try:
            response = await self._client.post(delivery.url, content=delivery.body, headers=headers)
        except httpx.HTTPError as error:
            attempt["error"] = type(error).__name__
            return None
        attempt["status"] = response.status_code
        return response.status_code
