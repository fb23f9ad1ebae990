"""The sandbox as its own process, as `make run` starts it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from sandbox.stripe.__main__ import config_from, parse_arguments
from tests.integration.sandbox_fal.support import Receiver, wait_for
from tests.integration.sandbox_stripe.support import (
    CANCEL,
    KEY,
    SECRET,
    SUCCESS,
    Json,
    SdkTransport,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sandbox.stripe", "--port", str(port)]
    command += ["--state-dir", str(tmp_path_factory.mktemp("stripe"))]
    command += ["--webhook-url", receiver.url, "--webhook-schedule", "0", "0.05", "0.05"]
    secrets = {"STRIPE_SECRET_KEY": KEY, "STRIPE_WEBHOOK_SECRETS": SECRET}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "APP_ENV": "test", **secrets})
    address = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        assert process.poll() is None, "the sandbox did not start"
        try:
            return httpx.get(f"{address}/__control/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(healthy, 30)
        yield address
    finally:
        process.terminate()
        assert process.wait(15) == 0


async def test_buying(url: str, receiver: Receiver) -> None:
    async with httpx.AsyncClient() as http:
        client = stripe.StripeClient(
            KEY, base_addresses={"api": url}, http_client=SdkTransport(http)
        )
        item: Json = {
            "price_data": {
                "currency": "usd",
                "unit_amount": 1000,
                "product_data": {"name": "Credits"},
            },
            "quantity": 1,
        }
        params: Any = {
            "mode": "payment",
            "line_items": [item],
            "success_url": SUCCESS,
            "cancel_url": CANCEL,
        }
        session = await client.v1.checkout.sessions.create_async(params)
        assert session.url is not None
        assert session.url.startswith(f"{url}/c/pay/")
        paid = await http.post(session.url, data={"action": "pay"})
        assert paid.headers["location"].endswith(session.id)

    def completed() -> bool:
        return any(b"checkout.session.completed" in item.raw for item in receiver.received)

    wait_for(completed)
    for hook in receiver.received:
        stripe.Webhook.construct_event(hook.raw, hook.headers["stripe-signature"], SECRET)


async def test_a_dropped_connection_on_a_real_socket(url: str) -> None:
    rule = {"kind": "drop_after", "match": {"path": "customers"}, "times": 1}
    async with httpx.AsyncClient() as http:
        await http.post(f"{url}/__control/faults", json=rule)
        client = stripe.StripeClient(
            KEY,
            base_addresses={"api": url},
            max_network_retries=1,
            http_client=SdkTransport(http),
        )
        made = await client.v1.customers.create_async({"name": "dropped"})
        listed = await client.v1.customers.list_async()
        assert [item.id for item in listed.data if item.name == "dropped"] == [made.id]


def test_sessions_expire_without_a_request(url: str, receiver: Receiver) -> None:
    auth = (KEY, "")
    form = {
        "mode": "payment",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "500",
        "line_items[0][price_data][product_data][name]": "Credits",
        "line_items[0][quantity]": "1",
        "success_url": SUCCESS,
        "expires_at": str(int(time.time()) + 1800),
    }
    made = httpx.post(f"{url}/v1/checkout/sessions", data=form, auth=auth)
    assert made.status_code == 200, made.text
    httpx.post(f"{url}/__control/clock", json={"advance_seconds": 1799})

    def expired() -> bool:
        return any(
            b"checkout.session.expired" in item.raw and made.json()["id"].encode() in item.raw
            for item in receiver.received
        )

    wait_for(expired)


# -- its command ---------------------------------------------------------------------------


def test_arguments() -> None:
    """Secrets are no arguments: everyone on the machine sees those."""
    arguments = parse_arguments(["--port", "1", "--webhook-url", "http://127.0.0.1:2/h"])
    environ = {"STRIPE_SECRET_KEY": KEY, "STRIPE_WEBHOOK_SECRETS": "whsec_new, whsec_old"}
    config = config_from(arguments, environ)
    assert config.keys == {KEY}
    assert config.endpoints[0].secrets == ("whsec_new", "whsec_old")
    with pytest.raises(SystemExit):
        config_from(arguments, {})
    for option in ("--key", "--webhook-secret"):
        with pytest.raises(SystemExit):
            parse_arguments(["--port", "1", option, "x"])
