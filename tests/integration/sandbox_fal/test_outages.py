"""What goes wrong in the middle of a request's life, seen from the client."""

import time
from typing import Any

import httpx
import pytest

from tests.integration.sandbox_fal.support import KEY_A, KEY_B, KEY_OTHER, Fal

KEY_A_ID = KEY_A.partition(":")[0]


def file_of(fal: Fal) -> str:
    url: str = fal.result(fal.submit()).json()["images"][0]["url"]
    return url


def test_one_route_for_so_many_answers(fal: Fal) -> None:
    ticket = fal.submit()
    fal.wait_completed(ticket)
    fal.outage("not_found", routes=["status"], after=1, times=2)
    looks = [fal.http.get(ticket["status_url"]) for _ in range(4)]
    assert [look.status_code for look in looks] == [200, 404, 404, 200]
    assert looks[1].json() == {"status": "NOT_FOUND"}
    assert fal.http.get(ticket["response_url"]).status_code == 200


def test_one_route_for_some_seconds(fal: Fal) -> None:
    ticket = fal.submit()
    fal.wait_completed(ticket)
    fal.outage("server_error", routes=["result"], seconds=0.3, args={"html": True})
    answer = fal.http.get(ticket["response_url"])
    assert answer.status_code == 503
    assert "x-fal-request-id" not in answer.headers
    time.sleep(0.35)
    assert fal.http.get(ticket["response_url"]).status_code == 200


def test_a_revoked_key_leaves_the_other_one_of_its_account(fal: Fal) -> None:
    ticket = fal.submit()
    outage = fal.outage("unauthorized", key=KEY_A_ID)
    assert fal.post().status_code == 401
    assert fal.http.get(ticket["status_url"]).status_code == 401
    other = fal.as_key(KEY_B)
    assert other.post().status_code == 200
    assert other.http.get(ticket["status_url"]).status_code in {200, 202}
    fal.heal(outage)
    assert fal.post().status_code == 200


def test_a_locked_account(fal: Fal) -> None:
    ticket = fal.submit()
    outage = fal.outage("locked", account="main", routes=["submit"])
    locked = fal.post()
    assert (locked.status_code, "User is locked" in locked.text) == (403, True)
    assert fal.as_key(KEY_B).post().status_code == 403
    assert fal.as_key(KEY_OTHER).post().status_code == 200
    assert fal.http.get(ticket["status_url"]).status_code in {200, 202}, "submits alone"
    fal.heal(outage)
    assert fal.post().status_code == 200
    assert len(fal.ledger()["calls"]) == 3


def test_a_limit_for_looks_alone(fal: Fal) -> None:
    ticket = fal.submit()
    fal.outage("rate_limited", routes=["status"], times=1, args={"retry_after": 9})
    limited = fal.http.get(ticket["status_url"])
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "9")
    assert fal.post().status_code == 200


@pytest.mark.parametrize("route", ["status", "result", "cancel"])
def test_silence_until_it_is_healed(fal: Fal, route: str) -> None:
    fal.tune(model_seconds=30)
    ticket = fal.submit()
    fal.outage("silent", routes=[route], args={"seconds": 60})
    urls = {"status": "status_url", "result": "response_url", "cancel": "cancel_url"}
    method = "PUT" if route == "cancel" else "GET"
    with pytest.raises(httpx.ReadTimeout):
        fal.http.request(method, ticket[urls[route]], timeout=0.2)
    fal.heal()
    assert fal.http.request(method, ticket[urls[route]]).status_code in {200, 202, 400}


def test_a_file_that_is_away_for_a_while(fal: Fal) -> None:
    url = file_of(fal)
    fal.outage("server_error", routes=["file"], times=2)
    assert [httpx.get(url).status_code for _ in range(3)] == [503, 503, 200]


def test_a_file_that_comes_spoilt_once(fal: Fal) -> None:
    url = file_of(fal)
    whole = httpx.get(url).content
    fal.outage("truncated", routes=["file"], times=1)
    assert httpx.get(url).content == whole[: len(whole) // 2]
    fal.outage("broken", routes=["file"], times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url)
    fal.outage("html_page", routes=["file"], times=1)
    page = httpx.get(url)
    assert (page.status_code, page.headers["content-type"][:9]) == (200, "text/html")
    assert httpx.get(url).content == whole


def test_a_file_that_drips(fal: Fal) -> None:
    url = file_of(fal)
    fal.outage("drip", routes=["file"], times=1, args={"bytes_per_second": 20})
    with httpx.stream("GET", url) as response:
        chunks = response.iter_raw()
        started = time.monotonic()
        assert len(next(chunks)) + len(next(chunks)) < 10
        assert time.monotonic() - started < 5
    assert len(httpx.get(url).content) > 1000


@pytest.mark.parametrize(
    ("kind", "args", "expected"),
    [
        ("status_404", {"after": 1}, [202, 404, 202]),
        ("looks_refused", {"count": 1}, [403, 202, 202]),
        ("looks_limited", {"count": 2}, [429, 429, 202]),
        ("status_5xx", {"count": 1, "after": 1}, [202, 500, 202]),
    ],
)
def test_a_request_may_bring_its_outage_along(
    fal: Fal, kind: str, args: dict[str, Any], expected: list[int]
) -> None:
    fal.tune(model_seconds=30)
    fal.fault(kind, args=args, times=1)
    ticket = fal.submit()
    assert [fal.http.get(ticket["status_url"]).status_code for _ in expected] == expected
    other = fal.submit()
    assert fal.http.get(other["status_url"]).status_code == 202


@pytest.mark.parametrize(
    ("kind", "status"), [("file_away", 503), ("file_404", 404), ("file_html", 200)]
)
def test_a_file_may_bring_its_outage_along(fal: Fal, kind: str, status: int) -> None:
    fal.fault(kind, args={"count": 1}, times=1)
    url = file_of(fal)
    first = httpx.get(url)
    assert first.status_code == status
    assert not first.headers["content-type"].startswith("image/")
    assert httpx.get(url).headers["content-type"].startswith("image/")


def test_a_file_may_come_spoilt_by_its_request(fal: Fal) -> None:
    fal.fault("file_truncated", times=1)
    cut = file_of(fal)
    assert len(httpx.get(cut).content) < len(httpx.get(cut).content)
    fal.fault("file_broken", times=1)
    broken = file_of(fal)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(broken)
    fal.fault("file_drip", args={"bytes_per_second": 1}, times=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(file_of(fal), timeout=0.3)


def test_a_result_that_is_not_there_at_first(fal: Fal) -> None:
    fal.fault("result_404", times=1)
    ticket = fal.submit()
    fal.wait_completed(ticket)
    looks = [fal.http.get(ticket["response_url"]).status_code for _ in range(2)]
    assert looks == [404, 200]


def test_looks_that_are_never_answered(fal: Fal) -> None:
    fal.fault("looks_silent", args={"seconds": 60}, times=1)
    ticket = fal.submit()
    with pytest.raises(httpx.ReadTimeout):
        fal.http.get(ticket["status_url"], timeout=0.2)
    fal.heal()
    assert fal.http.get(fal.submit()["status_url"]).status_code in {200, 202}


def test_a_failure_without_labels(fal: Fal) -> None:
    fal.fault("model_5xx", args={"type": "generation_timeout"})
    ticket = fal.submit()
    status = fal.wait_completed(ticket)
    assert "error" not in status
    assert "error_type" not in status
    result = fal.http.get(ticket["response_url"])
    assert result.status_code == 504
    assert "x-fal-billable-units" not in result.headers
    (detail,) = result.json()["detail"]
    assert detail["type"] == "generation_timeout"


def test_labels_and_bill_may_be_missing_by_themselves(fal: Fal) -> None:
    fal.fault("unlabelled")
    fal.fault("result_error", args={"type": "runner_disconnected"}, times=1)
    ticket = fal.submit()
    assert "error" not in fal.wait_completed(ticket)
    assert "x-fal-billable-units" in fal.http.get(ticket["response_url"]).headers
    fal.fault("unbilled")
    result = fal.result(fal.submit())
    assert (result.status_code, "x-fal-billable-units" in result.headers) == (200, False)
