"""One POST, and what is known after it."""

import asyncio
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from core.generations.providers.base import HeldKey
from core.generations.providers.fal.client import FalClient
from core.generations.providers.fal.provider import FalProvider
from core.generations.providers.types import (
    Accepted,
    Ambiguous,
    NotAccepted,
    SubmitOutcome,
)
from tests.integration.fal_client.support import (
    BODIES,
    CUTOUT,
    EDIT,
    FINGERPRINT,
    SANDBOX_URL,
    SECRET,
    Behaviour,
    Fal,
    fal_settings,
    free_port,
    resets,
    says,
    says_raw,
    stays_silent,
    wire,
)

HOOK = "https://api.example.com/v1/webhooks/fal/0192/token"
NGINX = b"<html><center><h1>Bad Gateway</h1></center><hr><center>nginx</center></html>"


async def _submit(http: httpx.AsyncClient, base_url: str, **overrides: object) -> SubmitOutcome:
    client = FalClient(fal_settings(base_url, **overrides), http, connect_seconds=2)
    return await client.submit(
        fingerprint=FINGERPRINT,
        endpoint=CUTOUT,
        body=BODIES[CUTOUT],
        webhook_url=HOOK,
        start_timeout_seconds=60,
    )


async def test_an_accepted_request_has_urls_at_its_app(fal: Fal) -> None:
    call = await fal.accepted(EDIT)
    base = f"{SANDBOX_URL}/fal-ai/nano-banana-2/requests/{call.request_id}"
    assert call == Accepted(
        request_id=call.request_id,
        status_url=f"{base}/status",
        response_url=base,
        cancel_url=f"{base}/cancel",
    )
    assert fal.client.derive_urls(EDIT, call.request_id) == (
        call.status_url,
        call.response_url,
        call.cancel_url,
    )


async def test_what_is_sent(fal: Fal) -> None:
    await fal.accepted(
        webhook_url=HOOK,
        start_timeout_seconds=780.04,
        tags={"operation": "cutout", "Bad Name": "x", "note": "a,b"},
    )
    (request,) = fal.sent
    assert request.method == "POST"
    assert json.loads(request.content) == BODIES[CUTOUT]
    assert parse_qs(urlsplit(str(request.url)).query) == {"fal_webhook": [HOOK]}
    sent = {
        name: request.headers.get(name)
        for name in (
            "authorization",
            "content-type",
            "x-fal-request-timeout",
            "x-app-fal-disable-fallback",
            "x-fal-object-lifecycle-preference",
            "x-fal-tags",
            "x-fal-store-io",
            "x-fal-no-retry",
        )
    }
    assert sent == {
        "authorization": f"Key {SECRET}",
        "content-type": "application/json",
        "x-fal-request-timeout": "780.0",
        "x-app-fal-disable-fallback": "true",
        "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 604800}',
        "x-fal-tags": "operation=cutout",
        "x-fal-store-io": None,
        "x-fal-no-retry": None,
    }


async def test_a_start_timeout_is_more_than_a_second(fal: Fal) -> None:
    await fal.accepted(start_timeout_seconds=0.2)
    assert fal.sent[0].headers["x-fal-request-timeout"] == "1.5"


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "rate_limited",
        {"retry_after": 7},
        {"reason": "rate_limited", "account_effect": "cooldown", "retry_after_seconds": 7.0},
    ),
    ("rate_limited", {}, {"reason": "rate_limited", "retry_after_seconds": None}),
    (
        "locked_account",
        {},
        {"reason": "locked", "http_status": 403, "account_effect": "locked"},
    ),
    (
        "unauthorized",
        {},
        {"reason": "unauthorized", "http_status": 401, "account_effect": "key_refused"},
    ),
    ("submit_html_error", {"status": 502}, {"reason": "ingress", "is_final": False}),
    ("submit_html_error", {"status": 503}, {"reason": "ingress", "account_effect": "none"}),
    ("submit_html_error", {"status": 504}, {"reason": "ingress", "is_final": False}),
    (
        "submit_4xx",
        {"status": 422, "body": {"detail": [{"type": "missing", "msg": "no", "loc": ["body"]}]}},
        {"reason": "refused", "is_final": True, "error_type": "missing", "detail": "body: no"},
    ),
    (
        "submit_4xx",
        {"status": 422, "body": {"detail": [{"type": "file_download_error"}]}},
        {"is_final": False, "cause": "photo_not_fetched"},
    ),
    (
        "submit_4xx",
        {"status": 422, "body": {"detail": [{"type": "image_too_small"}]}},
        {"is_final": True, "cause": "photo_too_small"},
    ),
    ("submit_4xx", {"status": 400}, {"is_final": True, "error_type": "bad_request"}),
    ("submit_4xx", {"status": 402}, {"reason": "locked", "account_effect": "locked"}),
    ("submit_4xx", {"status": 408}, {"reason": "try_again", "is_final": False}),
]


@pytest.mark.parametrize(("kind", "args", "expected"), REFUSALS)
async def test_surely_not_accepted(
    fal: Fal, kind: str, args: dict[str, Any], expected: dict[str, Any]
) -> None:
    await fal.fault(kind, **args)
    outcome = await fal.submit()
    assert isinstance(outcome, NotAccepted)
    assert {name: getattr(outcome, name) for name in expected} == expected
    if outcome.account_effect != "none":
        assert not outcome.is_final
    assert len(fal.sent) == 1
    assert await fal.paid_calls() == []


async def test_an_unknown_endpoint_may_come_back(fal: Fal) -> None:
    """A deployment at the edge looks the same as a model that was removed."""
    outcome = await fal.submit("fal-ai/no-such-model/edit")
    assert isinstance(outcome, NotAccepted)
    assert (outcome.http_status, outcome.is_final, outcome.reason) == (404, False, "model_missing")


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("accept_then_drop", {}),  # the answer ends in the middle
        ("accept_then_500", {}),
        ("accept_then_500", {"status": 503}),
    ],
)
async def test_taken_but_not_told_is_ambiguous(fal: Fal, kind: str, args: dict[str, Any]) -> None:
    await fal.fault(kind, **args)
    outcome = await fal.submit()
    assert isinstance(outcome, Ambiguous)
    assert len(fal.sent) == 1
    assert len(await fal.paid_calls()) == 1


async def test_a_server_error_with_a_request_id_is_ambiguous(fal: Fal) -> None:
    await fal.fault("submit_5xx", status=500)
    outcome = await fal.submit()
    assert outcome == Ambiguous(error="HTTP 500 runner_server_error", http_status=500)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(resets, id="reset"),
        pytest.param(stays_silent, id="silence"),
        pytest.param(says_raw(b""), id="closed"),
        pytest.param(says_raw(b"HTTP/1.1 200 OK\r\ncontent-le"), id="half a head"),
        pytest.param(
            says_raw(b'HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{"request_id": "a'),
            id="half a body",
        ),
        pytest.param(says_raw(b"\x16\x03\x01 not http\r\n\r\n"), id="not HTTP"),
        pytest.param(says(200, b"<html>welcome</html>"), id="a page"),
        pytest.param(says(200, b"[]"), id="a list"),
        pytest.param(says(200, b'{"status": "IN_QUEUE"}'), id="no request id"),
        pytest.param(says(200, b'{"request_id": 7}'), id="a number for an id"),
        pytest.param(says(204, b""), id="no content"),
        pytest.param(says(502, NGINX, x_fal_request_id="abc"), id="502 behind the gateway"),
        pytest.param(says(502, b"<html>cloud</html>"), id="502 of unknown origin"),
        pytest.param(says(500, NGINX), id="nginx 500"),
        pytest.param(says(499, b"{}"), id="499"),
    ],
)
async def test_on_the_wire_what_may_have_been_taken_is_ambiguous(
    plain_http: httpx.AsyncClient, behaviour: Behaviour
) -> None:
    async with wire(behaviour) as server:
        outcome = await _submit(plain_http, server.base_url, provider_submit_timeout_seconds=1)
    assert isinstance(outcome, Ambiguous), outcome
    assert outcome.error
    assert len(server.requests) == 1


async def test_a_dripping_answer_ends_the_wait(
    plain_http: httpx.AsyncClient,
) -> None:
    """Each byte comes within the read timeout, so only the whole has an end."""

    async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with wire(drips) as server:
        outcome = await _submit(plain_http, server.base_url, provider_submit_timeout_seconds=0.3)
    assert outcome == Ambiguous(error="TimeoutError")


async def test_nobody_listens(plain_http: httpx.AsyncClient) -> None:
    outcome = await _submit(plain_http, f"http://127.0.0.1:{free_port()}")
    assert isinstance(outcome, NotAccepted)
    assert (outcome.reason, outcome.http_status, outcome.error_type) == (
        "unreachable",
        None,
        "ConnectError",
    )
    assert (outcome.account_effect, outcome.is_final) == ("cooldown", False)


async def test_no_connection_free_in_the_pool_was_never_sent() -> None:
    async with (
        wire(stays_silent) as server,
        httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as http,
    ):
        holder = asyncio.create_task(http.get(f"{server.base_url}/held", timeout=5))
        await server.asked.wait()
        outcome = await _submit(http, server.base_url)
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
    assert isinstance(outcome, NotAccepted)
    assert outcome.error_type == "PoolTimeout"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "foreign",
    ["https://evil.example/x", "http://127.0.0.1:1/x", "http://user@HOST/x", "no url", 7, None],
)
async def test_a_url_of_another_host_is_not_believed(
    plain_http: httpx.AsyncClient, foreign: object
) -> None:
    """Its host would be sent our key; the protocol says where the request is anyway."""
    answer = {"request_id": "r-1", "status_url": foreign, "response_url": foreign}
    async with wire(says(200, json.dumps(answer).encode())) as server:
        outcome = await _submit(plain_http, server.base_url)
    base = f"{server.base_url}/fal-ai/birefnet/requests/r-1"
    assert outcome == Accepted(
        request_id="r-1",
        status_url=f"{base}/status",
        response_url=base,
        cancel_url=f"{base}/cancel",
    )


async def test_a_redirect_is_not_followed_with_the_key(plain_http: httpx.AsyncClient) -> None:
    async with (
        wire(says(200, b"{}")) as other,
        wire(says(307, b"", location=f"{other.base_url}/x")) as server,
    ):
        outcome = await _submit(plain_http, server.base_url)
    assert isinstance(outcome, NotAccepted)
    assert outcome.reason == "redirected"
    assert other.requests == []


async def test_keys_are_known_by_fingerprint_only(fal: Fal) -> None:
    assert hashlib.sha256(SECRET.encode()).hexdigest()[:16] == FINGERPRINT
    assert FalProvider(fal_settings(), fal.http).keys == (
        HeldKey(provider="fal", account="main", name="FAL_AI_KEY_1", fingerprint=FINGERPRINT),
    )
    assert SECRET not in repr(vars(fal.client))
