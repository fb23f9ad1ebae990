"""Asking for a request, and calling it off."""

import json
from typing import Any

import httpx
import pytest

from core.generations.providers.fal.client import FalClient, ModelOutput
from core.generations.providers.types import (
    AlreadyCompleted,
    CancelAccepted,
    Completed,
    InQueue,
    StatusOutcome,
    Unknown,
    Unreachable,
)
from tests.integration.fal_client.support import (
    FINGERPRINT,
    SANDBOX_URL,
    SECRET,
    Fal,
    fal_settings,
    free_port,
    says,
    wire,
)


async def _status(http: httpx.AsyncClient, status: int, body: bytes) -> StatusOutcome:
    async with wire(says(status, body)) as server:
        client = FalClient(fal_settings(server.base_url), http)
        return await client.status(
            fingerprint=FINGERPRINT, status_url=f"{server.base_url}/a/b/requests/c/status"
        )


async def test_an_unknown_request(fal: Fal) -> None:
    urls = fal.client.derive_urls("fal-ai/birefnet/v2", "no-such-request")
    client = fal.client
    assert await client.status(fingerprint=FINGERPRINT, status_url=urls[0]) == Unknown()
    assert await client.cancel(fingerprint=FINGERPRINT, cancel_url=urls[2]) == Unknown()


@pytest.mark.parametrize("is_html", [True, False])
async def test_a_fault_on_the_way_is_asked_again(fal: Fal, is_html: bool) -> None:
    await fal.fault("status_5xx", count=1, html=is_html)
    call = await fal.accepted()
    first = await fal.client.status(fingerprint=FINGERPRINT, status_url=call.status_url)
    assert isinstance(first, Unreachable)
    assert first.http_status == 500
    assert await fal.completed(call) == Completed()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (202, {"status": "IN_QUEUE"}, InQueue(position=None)),
        (202, {"status": "IN_QUEUE", "queue_position": 3}, InQueue(position=3)),
        (200, {"status": "COMPLETED", "error": "", "logs": None}, Completed()),
        (200, {"status": "FAILED"}, Completed(error="status FAILED")),
        (200, {"status": "CANCELED", "error": "stopped"}, Completed(error="stopped")),
    ],
)
async def test_words_of_the_status(
    plain_http: httpx.AsyncClient, status: int, body: Any, expected: StatusOutcome
) -> None:
    assert await _status(plain_http, status, json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"{}"),
        (200, b'{"status": 5}'),
        (200, b"<html>"),
        (404, b"<html>nginx</html>"),  # not fal's word: the request may well be there
        (401, b'{"detail": "no"}'),
        (500, b'{"detail": "boom"}'),
    ],
)
async def test_no_status(plain_http: httpx.AsyncClient, status: int, body: bytes) -> None:
    assert isinstance(await _status(plain_http, status, body), Unreachable)


async def test_nobody_listens(plain_http: httpx.AsyncClient) -> None:
    base_url = f"http://127.0.0.1:{free_port()}"
    client = FalClient(fal_settings(base_url), plain_http)
    url = f"{base_url}/a/b/requests/c"
    status = await client.status(fingerprint=FINGERPRINT, status_url=f"{url}/status")
    cancel = await client.cancel(fingerprint=FINGERPRINT, cancel_url=f"{url}/cancel")
    assert isinstance(status, Unreachable)
    assert isinstance(cancel, Unreachable)


async def test_cancel_while_it_waits_and_while_it_runs(fal: Fal) -> None:
    await fal.tune(model_seconds=60, account_limit=1)
    running, waiting = await fal.accepted(), await fal.accepted()
    for call in (waiting, running):
        outcome = await fal.client.cancel(fingerprint=FINGERPRINT, cancel_url=call.cancel_url)
        assert outcome == CancelAccepted()
        assert isinstance(await fal.completed(call), Completed)


async def test_too_late_to_cancel(fal: Fal) -> None:
    call = await fal.accepted()
    await fal.completed(call)
    outcome = await fal.client.cancel(fingerprint=FINGERPRINT, cancel_url=call.cancel_url)
    assert outcome == AlreadyCompleted()


async def test_a_cancel_that_was_heard_may_still_deliver(fal: Fal) -> None:
    await fal.tune(model_seconds=0.1)
    await fal.fault("cancel_race")
    call = await fal.accepted()
    outcome = await fal.client.cancel(fingerprint=FINGERPRINT, cancel_url=call.cancel_url)
    assert outcome == CancelAccepted()
    await fal.completed(call)
    assert isinstance(await fal.result(call), ModelOutput)


async def test_a_url_of_another_host_is_asked_on_ours(fal: Fal) -> None:
    """The base URL may have changed since the submit; the key goes to the configured host."""
    call = await fal.accepted()
    elsewhere = call.status_url.replace(SANDBOX_URL, "https://queue.falrun.example/base")
    fal.sent.clear()
    outcome = await fal.client.status(fingerprint=FINGERPRINT, status_url=elsewhere)
    assert not isinstance(outcome, Unknown | Unreachable)
    assert {str(request.url) for request in fal.sent} == {call.status_url}


async def test_what_is_no_request_is_not_asked(fal: Fal) -> None:
    outcome = await fal.client.status(
        fingerprint=FINGERPRINT, status_url="https://evil.example/steal"
    )
    assert isinstance(outcome, Unreachable)
    assert fal.sent == []


async def test_a_key_that_is_gone_is_waited_for(fal: Fal) -> None:
    call = await fal.accepted()
    fal.sent.clear()
    outcome = await fal.client.status(fingerprint="0" * 16, status_url=call.status_url)
    assert isinstance(outcome, Unreachable)
    assert fal.sent == []


async def test_looks_carry_the_key(fal: Fal) -> None:
    await fal.ended()
    assert {request.headers["authorization"] for request in fal.sent} == {f"Key {SECRET}"}
