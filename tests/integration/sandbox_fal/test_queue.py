"""The queue protocol as fal's SDKs and documents describe it."""

import time

import httpx
import pytest

from tests.integration.sandbox_fal.support import (
    CUTOUT,
    EDIT,
    KEY_B,
    KEY_OTHER,
    Fal,
    edit_body,
    wait_for,
)


def test_submit_answers_with_app_only_urls_on_its_own_host(fal: Fal) -> None:
    response = fal.post("fal-ai/bria/product-shot", {"image_url": "x", "scene_description": "y"})

    body = response.json()
    base = f"{fal.base_url}/fal-ai/bria/requests/{body['request_id']}"
    assert response.status_code == 200
    assert response.headers["x-fal-request-id"] == body["request_id"]
    assert body == {
        "status": "IN_QUEUE",
        "request_id": body["request_id"],
        "gateway_request_id": body["request_id"],
        "response_url": base,
        "status_url": f"{base}/status",
        "cancel_url": f"{base}/cancel",
        "queue_position": 0,
    }


@pytest.mark.parametrize("endpoint", ["workflows/acme/ring", "comfy/acme/ring"])
def test_namespaces_take_three_segments(fal: Fal, endpoint: str) -> None:
    ticket = fal.submit(endpoint, {})

    assert ticket["response_url"].startswith(f"{fal.base_url}/{endpoint}/requests/")
    assert fal.result(ticket).status_code == 200


def test_status_is_202_until_completed_and_always_has_logs(fal: Fal) -> None:
    fal.tune(account_limit=1, model_seconds=0.4)
    first, second = fal.submit(), fal.submit()

    running = fal.http.get(first["status_url"])
    waiting = fal.http.get(second["status_url"])
    assert (running.status_code, running.json()["status"]) == (202, "IN_PROGRESS")
    assert running.json()["logs"] is None
    assert (waiting.status_code, waiting.json()["status"]) == (202, "IN_QUEUE")
    assert waiting.json()["queue_position"] == 0
    done = fal.wait_completed(first)
    assert done["logs"] is None
    assert round(done["metrics"]["inference_time"], 2) >= 0.4, "a timer may ring early by a tick"
    assert {"request_id", "response_url", "status_url", "cancel_url"} <= done.keys()
    with_logs = fal.http.get(first["status_url"], params={"logs": "1"}).json()
    assert {"message", "timestamp", "level", "source"} == with_logs["logs"][0].keys()


def test_queue_position_counts_those_ahead(fal: Fal) -> None:
    fal.tune(account_limit=0)

    assert [fal.submit()["queue_position"] for _ in range(3)] == [0, 1, 2]


def test_result_has_the_bare_output_and_its_billable_units(fal: Fal) -> None:
    ticket = fal.submit(EDIT, edit_body(num_images=2, resolution="2K"))

    response = fal.result(ticket)
    image = response.json()["images"][0]
    assert response.status_code == 200
    assert response.headers["x-fal-billable-units"] == "3"
    assert response.headers["x-fal-request-id"] == ticket["request_id"]
    assert len(response.json()["images"]) == 2
    assert image["url"].startswith(f"{fal.base_url}/files/")
    assert (image["width"], image["height"]) == (1024, 1024)
    file = httpx.get(image["url"])
    assert file.headers["content-type"] == image["content_type"] == "image/png"
    assert int(file.headers["content-length"]) == image["file_size"] == len(file.content)
    assert fal.http.get(f"{ticket['response_url']}/response").json() == response.json()


def test_result_is_400_while_pending(fal: Fal) -> None:
    fal.tune(model_seconds=5)
    ticket = fal.submit()

    response = fal.http.get(ticket["response_url"])
    assert response.status_code == 400
    assert response.json() == {"detail": "Request is still in progress"}


@pytest.mark.parametrize("tail", ["", "/status"])
def test_sub_path_in_request_urls_is_404(fal: Fal, tail: str) -> None:
    ticket = fal.submit()

    response = fal.http.get(f"/{EDIT}/requests/{ticket['request_id']}{tail}")
    assert response.status_code == 404
    assert response.headers["x-fal-billable-units"] == "0"


def test_unknown_id_and_unknown_endpoint(fal: Fal) -> None:
    missing = fal.http.get("/fal-ai/bria/requests/nothing/status")
    unknown = fal.post("fal-ai/nonexistent/edit")

    assert (missing.status_code, missing.json()) == (404, {"status": "NOT_FOUND"})
    assert unknown.status_code == 404
    assert unknown.json() == {"detail": "Path /edit not found"}


def test_key_is_required_and_sees_only_its_account(fal: Fal) -> None:
    anonymous = httpx.post(f"{fal.base_url}/{EDIT}", json=edit_body())
    wrong = fal.as_key("who:knows").post()
    ticket = fal.submit()

    assert anonymous.status_code == wrong.status_code == 401
    assert anonymous.json()["detail"] == (
        f'Cannot access application "{EDIT}". '
        "Authentication is required to access this application."
    )
    assert fal.as_key(KEY_B).http.get(ticket["status_url"]).is_success
    assert fal.as_key(KEY_OTHER).http.get(ticket["status_url"]).status_code == 404
    assert fal.ledger()["totals"]["calls"] == 1


def test_invalid_input_is_accepted_and_fails_at_the_result(fal: Fal) -> None:
    ticket = fal.submit(EDIT, {"prompt": "on marble", "num_images": 9})

    done = fal.wait_completed(ticket)
    response = fal.http.get(ticket["response_url"])
    assert (done["status"], done["error_type"]) == ("COMPLETED", "missing")
    assert response.status_code == 422
    assert response.headers["x-fal-billable-units"] == "0"
    details = {tuple(item["loc"]): item for item in response.json()["detail"]}
    assert details[("body", "image_urls")]["type"] == "missing"
    assert details[("body", "num_images")]["type"] == "less_than_equal"
    assert details[("body", "num_images")]["ctx"] == {"le": 4}
    assert all({"loc", "msg", "type", "url", "input"} <= item.keys() for item in details.values())


def test_body_that_is_no_json_fails_at_the_result(fal: Fal) -> None:
    response = fal.http.post(f"/{EDIT}", content=b"{")

    assert fal.result(response.json()).status_code == 422


def test_forbidden_prompt_is_refused_and_not_billed(fal: Fal) -> None:
    ticket = fal.submit(EDIT, edit_body(prompt="some Forbidden-Content here"))

    response = fal.result(ticket)
    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == "content_policy_violation"
    assert response.json()["detail"][0]["loc"] == ["body", "prompt"]
    assert fal.row(ticket["request_id"])["state"] == "failed"


def test_cancel_in_queue_running_finished_unknown(fal: Fal) -> None:
    fal.tune(account_limit=1, model_seconds=30)
    running, waiting = fal.submit(), fal.submit()

    removed = fal.cancel(waiting)
    requested = fal.cancel(running)
    again = fal.cancel(running)
    unknown = fal.http.put("/fal-ai/bria/requests/nothing/cancel")
    assert (removed.status_code, removed.json()) == (200, {"status": "OK"})
    assert (requested.status_code, requested.json()) == (
        202,
        {"status": "CANCELLATION_REQUESTED"},
    )
    assert (again.status_code, again.json()) == (400, {"status": "ALREADY_COMPLETED"})
    assert (unknown.status_code, unknown.json()) == (404, {"status": "NOT_FOUND"})
    assert fal.wait_completed(running)["error_type"] == "client_cancelled"
    assert fal.http.get(running["response_url"]).status_code == 499
    assert {row["state"] for row in fal.ledger()["calls"]} == {"cancelled"}


def test_only_running_requests_count_against_the_limit_of_the_account(fal: Fal) -> None:
    fal.tune(account_limit=2, model_seconds=0.3)
    tickets = [fal.submit() for _ in range(5)]
    other = fal.as_key(KEY_OTHER)
    elsewhere = other.submit()

    states = [fal.http.get(ticket["status_url"]).json()["status"] for ticket in tickets]
    assert states == ["IN_PROGRESS"] * 2 + ["IN_QUEUE"] * 3
    assert other.http.get(elsewhere["status_url"]).json()["status"] == "IN_PROGRESS"
    for ticket in tickets:
        fal.wait_completed(ticket)
    rows = sorted(fal.ledger()["calls"][:5], key=lambda row: row["started_at"])
    assert [row["request_id"] for row in rows] == [ticket["request_id"] for ticket in tickets]
    for row in rows:
        at = row["started_at"]
        assert sum(one["started_at"] <= at < one["finished_at"] for one in rows) <= 2


def test_five_hundred_run_at_once(fal: Fal) -> None:
    fal.tune(account_limit=500, model_seconds=60)
    for _ in range(500):
        fal.submit()

    assert fal.http.get("/__control/health").json()["running"] == {"main": 500}
    started = time.monotonic()
    fal.http.get("/__control/health")
    assert time.monotonic() - started < 0.5


def test_start_timeout_ends_what_never_started(fal: Fal) -> None:
    fal.tune(account_limit=1, model_seconds=0.6)
    running = fal.submit(headers={"x-fal-request-timeout": "0.2"})
    waiting = fal.submit(headers={"x-fal-request-timeout": "0.2"})

    response = fal.result(waiting)
    assert response.status_code == 504
    assert response.headers["x-fal-request-timeout-type"] == "user"
    assert response.headers["x-fal-error-type"] == "request_timeout"
    assert response.json() == {"detail": "Request timed out", "error_type": "request_timeout"}
    assert fal.result(running).status_code == 200


def test_queue_longer_than_wanted_is_429(fal: Fal) -> None:
    fal.tune(account_limit=0)
    fal.submit()
    fal.submit()

    assert fal.post(query="?fal_max_queue_length=1").status_code == 429
    assert fal.post(query="?fal_max_queue_length=2").status_code == 200


def test_status_stream_ends_with_completed(fal: Fal) -> None:
    fal.tune(account_limit=1, model_seconds=0.2)
    fal.submit()
    ticket = fal.submit()

    with fal.http.stream("GET", f"{ticket['status_url']}/stream?logs=1") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    states = [httpx.Response(200, content=line[6:]).json()["status"] for line in lines]
    assert all(line.startswith("data: ") for line in lines)
    assert states == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


def test_raising_the_limit_starts_what_waits(fal: Fal) -> None:
    fal.tune(account_limit=0)
    ticket = fal.submit(CUTOUT, {"image_url": "https://example.com/a.jpg"})
    fal.tune(account_limit=1)

    assert fal.result(ticket).json()["image"]["content_type"] == "image/png"


def test_output_files_expire_with_the_lifecycle_header(fal: Fal) -> None:
    header = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 1}'}
    ticket = fal.submit(headers=header)

    url = fal.result(ticket).json()["images"][0]["url"]
    assert httpx.get(url).status_code == 200
    wait_for(lambda: httpx.get(url).status_code == 404)


def test_sync_mode_returns_a_data_uri(fal: Fal) -> None:
    ticket = fal.submit(EDIT, edit_body(sync_mode=True))

    assert fal.result(ticket).json()["images"][0]["url"].startswith("data:image/png;base64,")
