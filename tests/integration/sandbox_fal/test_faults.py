"""Each kind of misbehaviour, seen from the client."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.fal.faults import FaultKind
from tests.integration.sandbox_fal.support import EDIT, Fal, Receiver, edit_body, wait_for
from tests.integration.sandbox_fal.test_webhooks import jwks_of, verifies

SIGNATURE = "x-fal-webhook-signature"


def output_url(fal: Fal) -> str:
    url: str = fal.result(fal.submit()).json()["images"][0]["url"]
    return url


# -- the submit answer ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "args", "status", "body"),
    [
        ("submit_4xx", {}, 400, {"detail": "Bad request", "error_type": "bad_request"}),
        ("submit_4xx", {"status": 409, "body": {"detail": "no"}}, 409, {"detail": "no"}),
        ("submit_5xx", {"status": 503}, 503, None),
        (
            "locked_account",
            {},
            403,
            {
                "detail": "User is locked. Reason: Exhausted balance. "
                "Top up your balance at fal.ai/dashboard/billing."
            },
        ),
        ("unauthorized", {}, 401, None),
        ("rate_limited", {"retry_after": 3}, 429, None),
    ],
)
def test_refused_submit_is_neither_run_nor_billed(
    fal: Fal, kind: str, args: dict[str, Any], status: int, body: dict[str, Any] | None
) -> None:
    fal.fault(kind, args=args)

    response = fal.post()
    assert response.status_code == status
    assert "x-fal-request-id" in response.headers
    if body is not None:
        assert response.json() == body
    if kind == "rate_limited":
        assert response.headers["retry-after"] == "3"
        assert response.headers["x-fal-error-type"] == "concurrent_requests_limit"
    assert fal.ledger()["calls"] == []


@pytest.mark.parametrize("status", [502, 503, 504])
def test_ingress_page_has_no_request_id(fal: Fal, status: int) -> None:
    fal.fault("submit_html_error", args={"status": status})

    response = fal.post()
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert "x-fal-request-id" not in response.headers
    assert "nginx" in response.text


def test_delay_submit(fal: Fal) -> None:
    fal.fault("delay_submit", args={"seconds": 0.4})

    started = time.monotonic()
    fal.submit()
    assert time.monotonic() - started >= 0.4


def test_accept_then_drop_runs_and_bills_without_an_answer(fal: Fal, receiver: Receiver) -> None:
    fal.fault("accept_then_drop", times=1)

    with pytest.raises(httpx.RemoteProtocolError):
        fal.post(webhook=f"{receiver.url}/lost")
    (hook,) = receiver.wait()
    (row,) = fal.ledger()["calls"]
    assert hook.path.endswith("/lost")
    assert (row["state"], row["submit_answered"]) == ("billed", False)
    assert row["faults"] == ["accept_then_drop"]
    assert fal.post().status_code == 200


def test_accept_then_500_runs_and_bills(fal: Fal) -> None:
    fal.fault("accept_then_500")

    assert fal.post().status_code == 500
    wait_for(lambda: fal.ledger()["totals"]["billed"] == 1)
    assert fal.ledger()["totals"]["submit_unanswered"] == 1


# -- the run ----------------------------------------------------------------------------------


def test_delay_run(fal: Fal) -> None:
    fal.fault("delay_run", args={"seconds": 0.4})

    assert fal.wait_completed(fal.submit())["metrics"]["inference_time"] >= 0.4


@pytest.mark.parametrize(
    ("args", "status", "error_type"),
    [
        ({"status": 500}, 500, "runner_server_error"),
        ({"status": 503}, 503, "runner_connection_error"),
        ({"status": 504}, 504, "startup_timeout"),
        ({"type": "runner_disconnected"}, 503, "runner_disconnected"),
    ],
)
def test_flat_result_error_is_final_and_not_billed(
    fal: Fal, args: dict[str, Any], status: int, error_type: str
) -> None:
    fal.fault("result_error", args=args)
    ticket = fal.submit()

    for _ in range(2):
        response = fal.result(ticket)
        assert response.status_code == status
        assert response.json()["error_type"] == error_type
        assert response.headers["x-fal-error-type"] == error_type
    assert fal.wait_completed(ticket)["error_type"] == error_type
    assert fal.row(ticket["request_id"])["cost"] == 0


@pytest.mark.parametrize(
    ("error_type", "status"),
    [("no_media_generated", 422), ("generation_timeout", 504), ("internal_server_error", 500)],
)
def test_listed_result_error(fal: Fal, error_type: str, status: int) -> None:
    fal.fault("result_error", args={"type": error_type})

    response = fal.result(fal.submit())
    assert response.status_code == status
    assert response.json()["detail"][0]["type"] == error_type


@pytest.mark.parametrize("no_retry", [False, True])
def test_runner_failures_are_retried_behind_the_queue(fal: Fal, no_retry: bool) -> None:
    fal.fault("result_error", args={"status": 503, "failures": 2})
    ticket = fal.submit(headers={"x-fal-no-retry": "1"} if no_retry else None)

    assert fal.result(ticket).status_code == (503 if no_retry else 200)


def test_never_finishes_until_cancelled(fal: Fal) -> None:
    fal.fault("never_finishes")
    ticket = fal.submit()

    time.sleep(0.3)
    assert fal.http.get(ticket["status_url"]).json()["status"] == "IN_PROGRESS"
    assert fal.cancel(ticket).status_code == 202
    assert fal.result(ticket).status_code == 499


@pytest.mark.parametrize("billed", [False, True])
def test_lost_request_is_not_found_later(fal: Fal, billed: bool) -> None:
    fal.fault("lost_request", args={"seconds": 0.1, "billed": billed})
    ticket = fal.submit()

    wait_for(lambda: fal.http.get(ticket["status_url"]).status_code == 404)
    assert fal.http.get(ticket["status_url"]).json() == {"status": "NOT_FOUND"}
    assert fal.row(ticket["request_id"])["state"] == ("billed" if billed else "failed")
    assert fal.http.get("/__control/health").json()["running"] == {}


def test_cancel_race_finishes_all_the_same(fal: Fal) -> None:
    fal.tune(model_seconds=0.3)
    fal.fault("cancel_race")
    ticket = fal.submit()

    assert fal.cancel(ticket).status_code == 202
    assert fal.result(ticket).status_code == 200
    assert fal.row(ticket["request_id"])["state"] == "billed"


def test_content_policy(fal: Fal) -> None:
    fal.fault("content_policy")

    response = fal.result(fal.submit())
    assert response.json()["detail"][0]["type"] == "content_policy_violation"


# -- looking at it ----------------------------------------------------------------------------


def test_status_5xx_passes(fal: Fal) -> None:
    fal.fault("status_5xx", args={"count": 2, "status": 503, "html": True})
    ticket = fal.submit()

    answers = [fal.http.get(ticket["status_url"]) for _ in range(3)]
    assert [answer.status_code >= 500 for answer in answers] == [True, True, False]
    assert "nginx" in answers[0].text


def test_result_5xx_passes(fal: Fal) -> None:
    fal.fault("result_5xx", args={"count": 1})
    ticket = fal.submit()

    assert fal.result(ticket).status_code == 500
    assert fal.result(ticket).status_code == 200


# -- webhooks ---------------------------------------------------------------------------------


def test_webhook_never(fal: Fal, receiver: Receiver) -> None:
    fal.fault("webhook_never")
    ticket = fal.submit(webhook=receiver.url)

    wait_for(lambda: fal.webhook_of(ticket["request_id"])["settled"])
    assert receiver.received == []


def test_webhook_duplicate(fal: Fal, receiver: Receiver) -> None:
    fal.fault("webhook_duplicate", args={"count": 3, "gap": 0.01})
    fal.submit(webhook=receiver.url)

    hooks = receiver.wait(3)
    assert len({hook.raw for hook in hooks}) == 1


def test_webhook_late(fal: Fal, receiver: Receiver) -> None:
    fal.fault("webhook_late", args={"seconds": 0.4})
    ticket = fal.submit(webhook=receiver.url)
    fal.wait_completed(ticket)
    completed = time.monotonic()

    (hook,) = receiver.wait()
    assert hook.at - completed > 0.2


def test_webhook_reordered_arrives_before_the_submit_answer(fal: Fal, receiver: Receiver) -> None:
    fal.fault("webhook_reordered")
    ticket = fal.submit(webhook=receiver.url)

    (hook,) = receiver.received
    assert hook.body["request_id"] == ticket["request_id"]
    assert fal.row(ticket["request_id"])["submit_answered"]


def test_webhook_unsigned(fal: Fal, receiver: Receiver) -> None:
    fal.fault("webhook_unsigned")
    fal.submit(webhook=receiver.url)

    (hook,) = receiver.wait()
    assert not any(name.startswith("x-fal-webhook") for name in hook.headers)


def test_webhook_bad_signature(fal: Fal, receiver: Receiver) -> None:
    fal.fault("webhook_bad_signature")
    fal.submit(webhook=receiver.url)

    (hook,) = receiver.wait()
    assert SIGNATURE in hook.headers
    assert not verifies(jwks_of(fal), hook)


# -- the output -------------------------------------------------------------------------------


def test_output_missing(fal: Fal) -> None:
    fal.fault("output_missing")

    assert httpx.get(output_url(fal)).status_code == 404


@pytest.mark.parametrize("garbage", [False, True])
def test_output_corrupt(fal: Fal, garbage: bool) -> None:
    whole = httpx.get(output_url(fal)).content
    fal.fault("output_corrupt", args={"garbage": garbage})

    file = httpx.get(output_url(fal))
    assert file.headers["content-type"] == "image/png"
    assert len(file.content) == len(whole) // 2
    assert whole.startswith(file.content) is not garbage


def test_output_wrong_type(fal: Fal) -> None:
    fal.fault("output_wrong_type")

    file = httpx.get(output_url(fal))
    assert file.headers["content-type"].startswith("text/html")


def test_output_huge(fal: Fal) -> None:
    fal.fault("output_huge", args={"size_bytes": 3_000_000})

    with httpx.stream("GET", output_url(fal)) as response:
        length = int(response.headers["content-length"])
        assert sum(len(chunk) for chunk in response.iter_bytes()) == length
    assert length > 3_000_000


def test_output_foreign_host(fal: Fal) -> None:
    fal.fault("output_foreign_host")

    assert httpx.URL(output_url(fal)).host == "files.untrusted.example"


def test_nsfw_flag(fal: Fal) -> None:
    fal.fault("nsfw_flag")

    assert fal.result(fal.submit()).json()["has_nsfw_concepts"] == [True]


# -- which requests ---------------------------------------------------------------------------


def test_rules_match_by_endpoint_body_number_and_times(fal: Fal) -> None:
    fal.fault("submit_4xx", match={"contains": "velvet"})
    fal.fault("submit_5xx", match={"endpoint": "fal-ai/nano-banana/edit"}, times=1)
    fal.fault("rate_limited", match={"nth": 2, "endpoint": EDIT})

    assert fal.post(EDIT, edit_body(prompt="on velvet")).status_code == 400
    assert fal.post("fal-ai/nano-banana/edit").status_code == 500
    assert fal.post("fal-ai/nano-banana/edit").status_code == 200
    assert [fal.post().status_code for _ in range(2)] == [429, 200]
    assert fal.http.delete("/__control/faults").status_code == 200
    assert fal.post(EDIT, edit_body(prompt="on velvet")).status_code == 200


def test_rate_affects_about_that_share(fal: Fal) -> None:
    fal.tune(account_limit=0)
    fal.fault("submit_4xx", rate=0.3)

    refused = sum(fal.post().status_code == 400 for _ in range(200))
    assert 30 <= refused <= 90


def test_chaos_repeats_with_its_seed_and_draws_every_kind(fal: Fal) -> None:
    fal.tune(account_limit=0)
    kinds = ["submit_4xx", "rate_limited", "accept_then_500"]

    def run_chaos(seed: int) -> list[int]:
        body = {"seed": seed, "rate": 0.6, "kinds": kinds}
        assert fal.http.post("/__control/chaos", json=body).status_code == 200
        return [fal.post().status_code for _ in range(30)]

    first = run_chaos(1)
    assert first == run_chaos(1) != run_chaos(2)
    assert set(first) == {200, 400, 429, 500}


def test_unknown_fault_is_refused(fal: Fal) -> None:
    assert fal.http.post("/__control/faults", json={"kind": "gremlins"}).status_code == 422
    chaos = {"seed": 1, "rate": 1, "kinds": ["gremlins"]}
    assert fal.http.post("/__control/chaos", json=chaos).status_code == 422


def test_every_kind_is_exercised_here() -> None:
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [kind for kind in FaultKind if f'"{kind}"' not in source] == []
