"""What the result's HTTP code means for the work and the money."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from core.generations.providers.fal.client import FalClient, FalResultOutcome, ModelOutput
from core.generations.providers.types import (
    Completed,
    Failure,
    FailureCause,
    InProgress,
    InQueue,
    StillRunning,
    Unknown,
    Unreachable,
)
from sandbox.fal.errors import FLAT_ERRORS, LISTED_STATUS, MESSAGES
from tests.integration.fal_client.support import (
    CUTOUT,
    EDIT,
    FINGERPRINT,
    Behaviour,
    Fal,
    fal_settings,
    resets,
    says,
    stays_silent,
    wire,
)

RETRYABLE = {
    "request_timeout",
    "startup_timeout",
    "runner_scheduling_failure",
    "runner_connection_timeout",
    "runner_disconnected",
    "runner_connection_refused",
    "runner_connection_error",
    "runner_incomplete_response",
    "runner_server_error",
    "internal_error",
    "internal_server_error",
    "generation_timeout",
    "downstream_service_error",
    "downstream_service_unavailable",
    "file_download_error",
}
REFUSALS = {
    "bad_request",
    "missing",
}
CAUSES = {
    "client_cancelled": FailureCause.CANCELLED,
    "client_disconnected": FailureCause.CANCELLED,
    "content_policy_violation": FailureCause.CONTENT,
    "no_media_generated": FailureCause.NO_IMAGE,
    "image_too_small": FailureCause.PHOTO_TOO_SMALL,
    "image_too_large": FailureCause.PHOTO_TOO_LARGE,
    "file_too_large": FailureCause.PHOTO_FILE_TOO_LARGE,
    "unsupported_image_format": FailureCause.PHOTO_FORMAT,
    "image_load_error": FailureCause.PHOTO_UNREADABLE,
    "file_download_error": FailureCause.PHOTO_NOT_FETCHED,
    "face_detection_error": FailureCause.FACE,
    "feature_not_supported": FailureCause.PARAMS,
    "greater_than_equal": FailureCause.PARAMS,
    "one_of": FailureCause.PARAMS,
    **dict.fromkeys(REFUSALS, FailureCause.INPUT),
}
ALL_TYPES = {*FLAT_ERRORS, *LISTED_STATUS, *MESSAGES, *CAUSES}


async def test_an_output_with_its_bill(fal: Fal) -> None:
    outcome = await fal.ended(EDIT)
    assert isinstance(outcome, ModelOutput)
    assert outcome.payload["images"][0]["url"].startswith("http://127.0.0.1")
    assert outcome.billable_units == Decimal(1)


@pytest.mark.parametrize("error_type", sorted(ALL_TYPES))
async def test_every_error_type_is_sorted(fal: Fal, error_type: str) -> None:
    await fal.fault("result_error", type=error_type)
    outcome = await fal.ended()
    assert isinstance(outcome, Failure), outcome
    assert (outcome.error_type, outcome.is_retryable, outcome.cause) == (
        error_type,
        error_type in RETRYABLE,
        CAUSES.get(error_type, FailureCause.PROVIDER),
    )
    assert outcome.billable_units == 0


async def test_a_refused_text_or_photo(fal: Fal) -> None:
    body = {"prompt": "forbidden-content", "image_urls": ["https://example.com/a.jpg"]}
    outcome = await fal.ended(EDIT, body=body)
    assert isinstance(outcome, Failure)
    assert (outcome.http_status, outcome.error_type) == (422, "content_policy_violation")
    assert outcome.cause is FailureCause.CONTENT
    assert outcome.detail is not None
    assert outcome.detail.startswith("body.prompt: ")


async def test_input_that_the_model_does_not_take(fal: Fal) -> None:
    outcome = await fal.ended(CUTOUT, body={"model": "none"})
    assert isinstance(outcome, Failure)
    assert (outcome.http_status, outcome.cause) == (422, FailureCause.INPUT)
    assert not outcome.is_retryable


async def test_not_yet(fal: Fal) -> None:
    await fal.tune(model_seconds=60, account_limit=1)
    running, waiting = await fal.accepted(), await fal.accepted()
    client = fal.client
    assert await fal.result(running) == StillRunning()
    assert await fal.result(waiting) == StillRunning()
    status = await client.status(fingerprint=FINGERPRINT, status_url=running.status_url)
    assert status == InProgress()
    status = await client.status(fingerprint=FINGERPRINT, status_url=waiting.status_url)
    assert status == InQueue(position=0)


async def test_not_started_in_our_time_surely_never_ran(fal: Fal) -> None:
    await fal.tune(model_seconds=60, account_limit=1)
    await fal.accepted()
    call = await fal.accepted(start_timeout_seconds=1.5)
    await fal.completed(call)
    outcome = await fal.result(call)
    assert isinstance(outcome, Failure)
    assert (outcome.http_status, outcome.cause) == (504, FailureCause.START_TIMEOUT)
    assert not outcome.is_retryable


@pytest.mark.parametrize("is_html", [True, False])
async def test_the_gateways_own_fault_is_not_the_requests(fal: Fal, is_html: bool) -> None:
    """The image is there: to take it for a failure would be to buy it twice."""
    await fal.fault("result_5xx", count=2, html=is_html)
    call = await fal.accepted()
    await fal.completed(call)
    for _ in range(2):
        assert isinstance(await fal.result(call), Unreachable)
    assert isinstance(await fal.result(call), ModelOutput)


async def test_a_request_that_fal_has_lost(fal: Fal) -> None:
    await fal.fault("lost_request", seconds=0.01)
    call = await fal.accepted()
    async with asyncio.timeout(5):
        while True:
            outcome = await fal.result(call)
            if outcome != StillRunning():
                break
            await asyncio.sleep(0.01)
    assert outcome == Unknown()


async def test_a_cancelled_request(fal: Fal) -> None:
    await fal.tune(model_seconds=60)
    call = await fal.accepted()
    await fal.client.cancel(fingerprint=FINGERPRINT, cancel_url=call.cancel_url)
    outcome = await fal.result(call)
    assert isinstance(outcome, Failure)
    assert (outcome.http_status, outcome.cause) == (499, FailureCause.CANCELLED)
    assert not outcome.is_retryable


async def _result(http: httpx.AsyncClient, behaviour: Behaviour) -> FalResultOutcome:
    async with wire(behaviour) as server:
        client = FalClient(fal_settings(server.base_url), http)
        return await client.result(
            fingerprint=FINGERPRINT,
            response_url=f"{server.base_url}/fal-ai/birefnet/requests/r-1",
        )


NOT_ABOUT_THE_REQUEST = [
    pytest.param(401, b'{"detail": "no"}', {}, False, id="401"),
    pytest.param(403, b'{"detail": "User is locked."}', {}, False, id="403"),
    pytest.param(429, b'{"detail": "slow"}', {"retry_after": "9"}, True, id="429"),
    pytest.param(302, b"", {"location": "https://example.com"}, False, id="redirect"),
    pytest.param(404, b"<html>nginx</html>", {}, False, id="404 page"),
    pytest.param(503, b"<html>nginx</html>", {}, False, id="503 page"),
    pytest.param(200, b"<html>welcome</html>", {}, False, id="200 page"),
    pytest.param(200, b'{"images": [', {}, False, id="half"),
    pytest.param(200, b"[1]", {}, False, id="list"),
]


@pytest.mark.parametrize(("status", "body", "headers", "is_limited"), NOT_ABOUT_THE_REQUEST)
async def test_an_answer_that_says_nothing_of_the_request(
    plain_http: httpx.AsyncClient,
    status: int,
    body: bytes,
    headers: dict[str, str],
    *,
    is_limited: bool,
) -> None:
    outcome = await _result(plain_http, says(status, body, **headers))
    assert isinstance(outcome, Unreachable), outcome
    assert (outcome.http_status, outcome.is_limited) == (status, is_limited)
    assert outcome.retry_after_seconds == (9 if "retry_after" in headers else None)


@pytest.mark.parametrize("behaviour", [resets, stays_silent])
async def test_no_answer(behaviour: Behaviour) -> None:
    async with wire(behaviour) as server, httpx.AsyncClient() as http:
        client = FalClient(fal_settings(server.base_url), http, read_seconds=0.2)
        outcome = await client.result(
            fingerprint=FINGERPRINT, response_url=f"{server.base_url}/a/b/requests/c"
        )
    assert isinstance(outcome, Unreachable)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            404,
            {"detail": [{"type": "gone_by_the_models_word"}]},
            ("gone_by_the_models_word", False),
        ),
        (500, {"detail": [{"type": "internal_server_error"}]}, ("internal_server_error", True)),
        (504, {"detail": [{"type": "generation_timeout"}]}, ("generation_timeout", True)),
        (418, {"detail": "unheard of"}, (None, False)),
        (422, {"detail": [{"type": "brand_new_type", "msg": "?"}]}, ("brand_new_type", False)),
        (422, {"detail": "plain words"}, (None, False)),
        (
            422,
            {"detail": [{"type": "missing"}, {"type": "content_policy_violation"}]},
            ("content_policy_violation", False),
        ),
        (400, {"detail": "Bad", "error_type": "bad_request"}, ("bad_request", False)),
    ],
)
async def test_the_requests_own_end(
    plain_http: httpx.AsyncClient, status: int, body: Any, expected: tuple[str | None, bool]
) -> None:
    outcome = await _result(plain_http, says(status, json.dumps(body).encode()))
    assert isinstance(outcome, Failure), outcome
    assert (outcome.error_type, outcome.is_retryable) == expected


@pytest.mark.parametrize(
    ("body", "headers", "is_gone"),
    [
        ({"status": "NOT_FOUND"}, {}, True),
        ({"detail": "Request not found"}, {}, True),
        ({"detail": "Path /x not found"}, {"x_fal_billable_units": "0"}, False),
    ],
)
async def test_one_404_is_no_end(
    plain_http: httpx.AsyncClient, body: Any, headers: dict[str, str], *, is_gone: bool
) -> None:
    outcome = await _result(plain_http, says(404, json.dumps(body).encode(), **headers))
    assert outcome == Unknown(is_gone=is_gone)


async def test_runners_put_a_bill_on_their_answers(plain_http: httpx.AsyncClient) -> None:
    """So a 429 or 403 with one is the model's, not the gateway's."""
    outcome = await _result(plain_http, says(429, b"{}", x_fal_billable_units="0"))
    assert isinstance(outcome, Failure)
    assert outcome.is_retryable


@pytest.mark.parametrize(
    ("result_status", "status_body", "expected"),
    [
        (400, {"status": "IN_PROGRESS"}, StillRunning),
        (400, {"status": "COMPLETED"}, Failure),
        (500, {"status": "IN_QUEUE"}, StillRunning),
        (500, {"status": "COMPLETED", "error": "boom", "error_type": "internal_error"}, Failure),
        (500, {"status": "COMPLETED"}, Unreachable),
        (502, {"detail": "no status"}, Unreachable),
    ],
)
async def test_the_status_decides_where_the_result_is_unclear(
    result_status: int, status_body: dict[str, Any], expected: type
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json=status_body)
        return httpx.Response(result_status, json={"detail": "unclear"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = FalClient(fal_settings(), http)
        for suffix in ("", "/response"):
            outcome = await client.result(
                fingerprint=FINGERPRINT,
                response_url=f"{fal_settings().fal_queue_url}/a/b/requests/c{suffix}",
            )
            assert isinstance(outcome, expected), outcome


async def test_a_hint_of_the_end_is_told(fal: Fal) -> None:
    await fal.fault("result_error", type="runner_disconnected")
    call = await fal.accepted()
    assert await fal.completed(call) == Completed(
        error="Runner disconnected", error_type="runner_disconnected"
    )
