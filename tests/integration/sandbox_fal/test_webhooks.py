"""Webhooks: signature, payload, retries, keys."""

import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sandbox.fal.webhooks import KEY_FILE, Signer
from tests.integration.sandbox_fal.support import EDIT, Fal, Received, Receiver, wait_for


def verifies(jwks: dict[str, Any], hook: Received) -> bool:
    """As fal documents it: any key, over the headers verbatim and the raw body."""
    names = ("request-id", "user-id", "timestamp")
    parts = [hook.headers[f"x-fal-webhook-{name}"] for name in names]
    message = "\n".join([*parts, hashlib.sha256(hook.raw).hexdigest()]).encode()
    signature = bytes.fromhex(hook.headers["x-fal-webhook-signature"])
    assert len(signature) == 64
    for key in jwks["keys"]:
        x = key["x"]
        public = base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            continue
        return True
    return False


def jwks_of(fal: Fal) -> dict[str, Any]:
    body: dict[str, Any] = fal.http.get("/.well-known/jwks.json").json()
    return body


def test_success_is_signed_and_carries_the_output(fal: Fal, receiver: Receiver) -> None:
    ticket = fal.submit(webhook=f"{receiver.url}/call-1?token=secret")

    (hook,) = receiver.wait()
    keys = jwks_of(fal)
    assert all("=" not in key["x"] for key in keys["keys"])
    assert verifies(keys, hook)
    assert abs(int(hook.headers["x-fal-webhook-timestamp"]) - time.time()) < 10
    assert hook.headers["x-fal-webhook-request-id"] == ticket["request_id"]
    assert hook.headers["content-type"] == "application/json"
    assert hook.path == "/hook/call-1?token=secret"
    assert hook.body == {
        "request_id": ticket["request_id"],
        "gateway_request_id": ticket["request_id"],
        "status": "OK",
        "payload": fal.http.get(ticket["response_url"]).json(),
    }
    assert fal.row(ticket["request_id"])["webhook_url"] == f"{receiver.url}/call-1?token=secret"


def test_failure_carries_the_error_list(fal: Fal, receiver: Receiver) -> None:
    ticket = fal.submit(EDIT, {}, webhook=receiver.url)

    (hook,) = receiver.wait()
    assert hook.body["status"] == "ERROR"
    assert hook.body["error"] == "Invalid status code: 422"
    assert hook.body["payload"] == fal.http.get(ticket["response_url"]).json()


def test_delivery_is_repeated_until_2xx(fal: Fal, receiver: Receiver) -> None:
    receiver.answers = [500, 404]
    ticket = fal.submit(webhook=receiver.url)

    hooks = receiver.wait(3)
    keys = jwks_of(fal)
    assert all(verifies(keys, hook) for hook in hooks)
    wait_for(lambda: fal.webhook_of(ticket["request_id"])["delivered"])
    time.sleep(0.3)
    assert len(receiver.received) == 3


def test_redirect_ends_delivery(fal: Fal, receiver: Receiver) -> None:
    receiver.answers = [302]
    ticket = fal.submit(webhook=receiver.url)

    wait_for(lambda: fal.webhook_of(ticket["request_id"])["settled"])
    assert len(receiver.received) == 1
    assert not fal.webhook_of(ticket["request_id"])["delivered"]


def test_cancelled_request_is_silent(fal: Fal, receiver: Receiver) -> None:
    fal.tune(model_seconds=30)
    ticket = fal.submit(webhook=receiver.url)
    fal.cancel(ticket)

    assert fal.webhook_of(ticket["request_id"])["settled"]
    assert receiver.received == []


def test_hosts_beyond_loopback_are_not_called(fal: Fal) -> None:
    ticket = fal.submit(webhook="http://192.0.2.1/hook")

    webhook = wait_for(
        lambda: (webhook := fal.webhook_of(ticket["request_id"]))["settled"] and webhook
    )
    assert webhook["attempts"][0]["error"] == "host not allowed"


@pytest.mark.parametrize("keep_old", [True, False])
def test_rotation(fal: Fal, receiver: Receiver, keep_old: bool) -> None:
    before = jwks_of(fal)
    fal.http.post("/__control/webhook-key/rotate", json={"keep_old": keep_old})
    fal.submit(webhook=receiver.url)

    (hook,) = receiver.wait()
    after = jwks_of(fal)
    assert not verifies(before, hook)
    assert verifies(after, hook)
    kept = {key["kid"] for key in before["keys"]} <= {key["kid"] for key in after["keys"]}
    assert kept is keep_old


def test_key_survives_in_the_state_directory(tmp_path: Path) -> None:
    first = Signer(tmp_path / "state")

    assert Signer(tmp_path / "state").jwks() == first.jwks()
    assert Signer(None).jwks() != first.jwks()
    assert (tmp_path / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600
