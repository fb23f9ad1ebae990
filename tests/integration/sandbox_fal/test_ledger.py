"""The sandbox's own book: what is billed, and to whom."""

import pytest

from sandbox.fal.models import ENDPOINTS
from tests.integration.sandbox_fal.support import (
    CUTOUT,
    EDIT,
    KEY_B,
    KEY_OTHER,
    Fal,
    edit_body,
)


def test_row_follows_the_request(fal: Fal) -> None:
    fal.tune(account_limit=1, model_seconds=1)
    ticket, second = fal.submit(), fal.submit(webhook="http://127.0.0.1:9/call/2")

    opened = fal.row(ticket["request_id"])
    waiting = fal.row(second["request_id"])
    assert (opened["state"], opened["account"], opened["endpoint"]) == ("open", "main", EDIT)
    assert opened["started_at"] is not None
    assert waiting["started_at"] is None
    assert waiting["webhook_url"] == "http://127.0.0.1:9/call/2"
    fal.wait_completed(second)
    closed = fal.row(ticket["request_id"])
    assert closed["accepted_at"] <= closed["started_at"] < closed["finished_at"]
    assert closed["state"] == "billed"
    assert (closed["billable_units"], closed["cost"]) == (1.0, 0.08)
    assert closed["submit_answered"]


def test_completed_is_billed_though_nobody_collects(fal: Fal) -> None:
    ticket = fal.submit(EDIT, edit_body(num_images=3))
    fal.wait_completed(ticket)

    totals = fal.ledger()["totals"]
    assert (totals["billed"], totals["open"], totals["cost"]) == (1, 0, 0.24)


def test_compute_seconds_are_billed_by_duration(fal: Fal) -> None:
    fal.tune(model_seconds=0.5)
    ticket = fal.submit(CUTOUT, {"image_url": "https://example.com/a.jpg"})

    response = fal.result(ticket)
    units = float(response.headers["x-fal-billable-units"])
    assert 0.49 <= units < 5
    assert fal.row(ticket["request_id"])["cost"] == pytest.approx(units * 0.0008)


@pytest.mark.parametrize(
    ("fault", "state"),
    [("result_error", "failed"), ("content_policy", "failed"), ("nsfw_flag", "billed")],
)
def test_failures_cost_nothing(fal: Fal, fault: str, state: str) -> None:
    fal.fault(fault)
    ticket = fal.submit()
    fal.wait_completed(ticket)

    row = fal.row(ticket["request_id"])
    assert row["state"] == state
    assert (row["cost"] > 0) is (state == "billed")


def test_accounts_are_those_of_the_keys(fal: Fal) -> None:
    fal.submit()
    fal.as_key(KEY_B).submit()
    fal.as_key(KEY_OTHER).submit()

    assert [row["account"] for row in fal.ledger()["calls"]] == ["main", "main", "other"]


def test_reset_forgets(fal: Fal) -> None:
    ticket = fal.submit()
    fal.http.post("/__control/reset")

    assert fal.ledger()["calls"] == []
    assert fal.http.get(ticket["status_url"]).status_code == 404


def test_price_list(fal: Fal) -> None:
    every = fal.http.get("/v1/models/pricing").json()["prices"]
    one = fal.http.get("/v1/models/pricing", params={"endpoint_id": EDIT}).json()["prices"]

    assert {price["endpoint_id"] for price in every} == set(ENDPOINTS)
    assert one == [{"endpoint_id": EDIT, "unit_price": 0.08, "unit": "images", "currency": "USD"}]
