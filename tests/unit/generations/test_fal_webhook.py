"""Only what fal signed, lately, is believed."""

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from core.errors import NotAllowedError, TemporarilyUnavailableError
from core.generations.providers.fal.webhook import KEYS_SECONDS, WebhookVerifier, read_keys
from tests.harness.settings import build_settings

NOW = 1_800_000_000
BODY = json.dumps(
    {
        "request_id": "r-1",
        "gateway_request_id": "g-1",
        "status": "OK",
        "payload": {"image": {"url": "https://fal.media/a.png"}},
    }
).encode()


def _encoded(key: Ed25519PrivateKey) -> str:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Provider:
    """fal's side: the key that signs, and the key set it publishes."""

    def __init__(self) -> None:
        self.now = NOW
        self.key = Ed25519PrivateKey.generate()
        self.published = [self.key]
        self.fetches = 0
        self.answer: httpx.Response | httpx.HTTPError | None = None
        self.http = httpx.AsyncClient(transport=httpx.MockTransport(self._publish))
        settings = build_settings(
            database_url="postgresql://nobody@127.0.0.1:9/none",
            worker_database_url="postgresql://nobody@127.0.0.1:9/none",
            redis_url="redis://127.0.0.1:9",
            redis_prefix="test",
        )
        self.verifier = WebhookVerifier(settings, self.http, now=lambda: self.now)

    def _publish(self, request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers
        self.fetches += 1
        if isinstance(self.answer, httpx.HTTPError):
            raise self.answer
        if self.answer is not None:
            return self.answer
        keys = [{"kty": "OKP", "crv": "Ed25519", "x": _encoded(key)} for key in self.published]
        return httpx.Response(200, json={"keys": keys})

    def rotate(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.published = [self.key]

    def headers(self, body: bytes = BODY, **changes: str | None) -> dict[str, str]:
        """Signed headers; a change to None leaves one out, others replace it after signing."""
        parts = ("r-1", "user-1", str(self.now), hashlib.sha256(body).hexdigest())
        signed = {
            "X-Fal-Webhook-Request-Id": parts[0],
            "X-Fal-Webhook-User-Id": parts[1],
            "X-Fal-Webhook-Timestamp": parts[2],
            "X-Fal-Webhook-Signature": self.key.sign("\n".join(parts).encode()).hex(),
        }
        for name, value in changes.items():
            full = f"X-Fal-Webhook-{name}"
            signed = {key: old for key, old in signed.items() if key != full}
            if value is not None:
                signed[full] = value
        return signed


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    yield made
    await made.http.aclose()


async def _reason(provider: Provider, headers: Mapping[str, str], body: bytes = BODY) -> str:
    with pytest.raises(NotAllowedError) as error:
        await provider.verifier.verify(headers, body)
    return str(error.value.fields["reason"])


async def test_a_genuine_webhook(provider: Provider) -> None:
    verified = await provider.verifier.verify(provider.headers(), BODY)
    assert (verified.request_id, verified.user_id, verified.status) == ("r-1", "user-1", "OK")
    assert verified.gateway_request_id == "g-1"
    assert verified.payload == {"image": {"url": "https://fal.media/a.png"}}
    assert verified.error is None


@pytest.mark.parametrize("case", [str.lower, str.upper])
async def test_header_names_of_any_case(provider: Provider, case: Callable[[str], str]) -> None:
    headers = {case(name): value for name, value in provider.headers().items()}
    assert (await provider.verifier.verify(headers, BODY)).request_id == "r-1"


async def test_the_headers_of_a_request(provider: Provider) -> None:
    headers = httpx.Headers(provider.headers())
    assert (await provider.verifier.verify(headers, BODY)).request_id == "r-1"


@pytest.mark.parametrize("name", ["Request_Id", "User_Id", "Timestamp", "Signature"])
async def test_a_missing_header(provider: Provider, name: str) -> None:
    headers = {
        key: value
        for key, value in provider.headers().items()
        if not key.endswith(name.replace("_", "-"))
    }
    assert len(headers) == 3
    assert await _reason(provider, headers) == "webhook_header"
    assert provider.fetches == 0


@pytest.mark.parametrize(("age", "is_fresh"), [(0, True), (300, True), (301, False), (9999, False)])
@pytest.mark.parametrize("direction", [-1, 1])
async def test_only_five_minutes_old_or_early(
    provider: Provider, age: int, direction: int, *, is_fresh: bool
) -> None:
    headers = provider.headers()
    provider.now += direction * age
    if is_fresh:
        await provider.verifier.verify(headers, BODY)
    else:
        assert await _reason(provider, headers) == "webhook_timestamp"


@pytest.mark.parametrize("timestamp", ["", "now", "1e9", "-1", " 1800000000", "9" * 40, "١٢٣"])
async def test_a_timestamp_that_is_none(provider: Provider, timestamp: str) -> None:
    headers = provider.headers(Timestamp=timestamp)
    assert await _reason(provider, headers) == "webhook_timestamp"


async def test_another_body(provider: Provider) -> None:
    assert await _reason(provider, provider.headers(), BODY + b" ") == "webhook_signature"


async def test_a_header_that_was_not_signed(provider: Provider) -> None:
    late = str(NOW + 1)
    assert await _reason(provider, provider.headers(Timestamp=late)) == "webhook_signature"


@pytest.mark.parametrize("signature", ["", "zz", "00", "00" * 64, "00" * 65])
async def test_a_signature_that_is_none(provider: Provider, signature: str) -> None:
    assert await _reason(provider, provider.headers(Signature=signature)) == "webhook_signature"


async def test_a_body_of_another_request(provider: Provider) -> None:
    body = b'{"request_id": "r-2", "status": "OK"}'
    assert await _reason(provider, provider.headers(body), body) == "webhook_request_id"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"not json", b'{"status": 5, "event": "IN_QUEUE"}', b"\xff\xfe"],
)
async def test_a_shape_that_nobody_knows(provider: Provider, body: bytes) -> None:
    """Signed, so a call may have ended; its content does not matter."""
    verified = await provider.verifier.verify(provider.headers(body), body)
    assert (verified.request_id, verified.status, verified.payload) == ("r-1", None, None)


# --- keys ----------------------------------------------------------------------------------------


async def test_keys_are_fetched_once(provider: Provider) -> None:
    for _ in range(3):
        await provider.verifier.verify(provider.headers(), BODY)
    assert provider.fetches == 1


async def test_any_key_of_the_set_may_sign(provider: Provider) -> None:
    provider.published = [Ed25519PrivateKey.generate(), provider.key]
    await provider.verifier.verify(provider.headers(), BODY)


async def test_a_new_key_is_found(provider: Provider) -> None:
    await provider.verifier.verify(provider.headers(), BODY)
    provider.rotate()
    provider.now += 60
    await provider.verifier.verify(provider.headers(), BODY)
    assert provider.fetches == 2


async def test_a_forger_cannot_make_us_ask_at_will(provider: Provider) -> None:
    await provider.verifier.verify(provider.headers(), BODY)
    provider.now += 60
    forger = Provider()
    forger.now = provider.now
    for _ in range(20):
        assert await _reason(provider, forger.headers()) == "webhook_signature"
    assert provider.fetches == 2
    await forger.http.aclose()


async def test_a_key_that_was_withdrawn_ends_within_a_day(provider: Provider) -> None:
    await provider.verifier.verify(provider.headers(), BODY)
    provider.published = [Ed25519PrivateKey.generate()]
    provider.now += int(KEYS_SECONDS)
    assert await _reason(provider, provider.headers()) == "webhook_signature"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("away"),
        httpx.Response(500),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json={"keys": []}),
        httpx.Response(200, json=[1]),
    ],
)
async def test_without_keys_fal_may_try_again(
    provider: Provider, answer: httpx.Response | httpx.HTTPError
) -> None:
    provider.answer = answer
    with pytest.raises(TemporarilyUnavailableError):
        await provider.verifier.verify(provider.headers(), BODY)
    provider.answer = None
    provider.now += 2
    await provider.verifier.verify(provider.headers(), BODY)


async def test_known_keys_outlive_an_outage(provider: Provider) -> None:
    await provider.verifier.verify(provider.headers(), BODY)
    provider.answer = httpx.ConnectError("away")
    provider.now += 3600
    assert await _reason(provider, provider.headers(Signature="00" * 64)) == "webhook_signature"
    await provider.verifier.verify(provider.headers(), BODY)


def test_what_else_is_in_a_key_set() -> None:
    good = _encoded(Ed25519PrivateKey.generate())
    entries: list[dict[str, Any]] = [
        {"x": good},
        {"x": good + "="},  # padded
        {"x": good, "crv": "X25519"},
        {"x": "AAAA"},
        {"x": "*" * 43},
        {"x": 7},
        {"kty": "RSA", "n": "x"},
    ]
    assert len(read_keys(entries)) == 2


async def test_the_clock_is_the_real_one_by_default() -> None:
    provider = Provider()
    provider.now = int(time.time())
    settings = build_settings(
        database_url="postgresql://nobody@127.0.0.1:9/none",
        worker_database_url="postgresql://nobody@127.0.0.1:9/none",
        redis_url="redis://127.0.0.1:9",
        redis_prefix="test",
    )
    await WebhookVerifier(settings, provider.http).verify(provider.headers(), BODY)
    await provider.http.aclose()
