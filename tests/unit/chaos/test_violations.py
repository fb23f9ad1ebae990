"""`make chaos` finds each violation: every rule is broken once."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from core.proofs import Drift
from scripts.chaos import violations
from scripts.chaos.both_ledgers import BothLedgers
from scripts.chaos.violations import Promise

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ANN = uuid.uuid4()
DONE, REFUNDED = uuid.uuid4(), uuid.uuid4()
PAID_CALL, FAILED_CALL = uuid.uuid4(), uuid.uuid4()


def generation(identifier: uuid.UUID, state: str, **changes: Any) -> dict[str, Any]:
    is_paid = state == "succeeded"
    return {
        "id": identifier,
        "user_id": ANN,
        "operation": "cutout",
        "step": 0,
        "state": state,
        "money": "confirmed" if is_paid else "refunded",
        "confirms": int(is_paid),
        "confirmed": 4 * is_paid,
        "refunded": 4 * (not is_paid),
        "cost_credits": 4,
        "result": {"storage_key": "image"} if is_paid else None,
        "ending": None if is_paid else "provider_failed",
        "finished_at": NOW,
        "deadline_at": NOW + timedelta(seconds=60),
        **changes,
    }


def call(identifier: uuid.UUID, of: uuid.UUID, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "generation_id": of,
        "step": 0,
        "state": state,
        "is_resubmission": False,
        "request_id": f"request of {identifier}",
        "billable_units": Decimal("1.50") if state == "succeeded" else None,
        **changes,
    }


def paid(identifier: uuid.UUID, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"request of {identifier}",
        "webhook_url": f"http://127.0.0.1/v1/webhooks/fal/{identifier}/token",
        "state": state,
        "billable_units": 1.5 if state == "billed" else 0.0,
        "faults": [],
        **changes,
    }


def ledgers(**changes: Any) -> BothLedgers:
    values: dict[str, Any] = {
        "generations": [generation(DONE, "succeeded"), generation(REFUNDED, "failed")],
        "calls": [call(PAID_CALL, DONE, "succeeded"), call(FAILED_CALL, REFUNDED, "failed")],
        "paid_calls": [paid(PAID_CALL, "billed"), paid(FAILED_CALL, "failed")],
        "dead_letters": [],
        "late_images": [],
        "leftovers": [],
        "pending": {"tasks": 0, "slots": 0, "polls": 0, "generations": 0},
        "paid_totals": {"billed": 1},
        "drift": [],
        "transfers": 4,
    }
    return BothLedgers(**(values | changes))


PROMISES = [
    Promise(str(DONE), str(ANN), "succeeded", "charged"),
    Promise(str(REFUNDED), str(ANN), "failed", "refunded"),
]


def rules(found: BothLedgers, promises: list[Promise] | None = None) -> set[str]:
    return {
        each.rule
        for each in violations.find_violations(found, PROMISES if promises is None else promises)
    }


def test_a_clean_run_has_no_violations() -> None:
    assert rules(ledgers()) == set()
    assert violations.count(ledgers())["provider_calls"]["paid_ours"] == 1


OTHER = uuid.uuid4()
UNREPORTED = {"request_id": None, "error_type": "ambiguous_submit"}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "open": ({"generations": [generation(DONE, "running", finished_at=None)]}, "never_ended"),
    "late": (
        {"generations": [generation(DONE, "succeeded", deadline_at=NOW - timedelta(seconds=30))]},
        "ended_late",
    ),
    "cancelled after a step for nothing": (
        {
            "generations": [
                generation(REFUNDED, "cancelled", operation="scene_hd", step=1, cost_credits=6)
            ]
        },
        "money",
    ),
    "charged twice": ({"generations": [generation(DONE, "succeeded", confirms=2)]}, "money"),
    "charged too much": ({"generations": [generation(DONE, "succeeded", confirmed=8)]}, "money"),
    "not charged": ({"generations": [generation(DONE, "succeeded", money="pending")]}, "money"),
    "refunded and charged": (
        {"generations": [generation(REFUNDED, "failed", confirms=1, confirmed=4)]},
        "money",
    ),
    "no image": ({"generations": [generation(DONE, "succeeded", result=None)]}, "image"),
    "refunded with an image": (
        {"generations": [generation(REFUNDED, "failed", result={"storage_key": "image"})]},
        "image",
    ),
    "drift": ({"drift": [Drift("account_balance", "credit_accounts", "1", {})]}, "drift"),
    "unknown to us": (
        {"paid_calls": [paid(PAID_CALL, "billed"), paid(OTHER, "billed")]},
        "unknown_paid_call",
    ),
    "unknown to them": ({"paid_calls": []}, "unknown_request"),
    "one call posted twice": (
        {"paid_calls": [paid(PAID_CALL, "billed"), paid(PAID_CALL, "billed", request_id="b")]},
        "sent_twice",
    ),
    "another request": (
        {"paid_calls": [paid(PAID_CALL, "billed", request_id="another")]},
        "request_id",
    ),
    "refused, but taken": ({"calls": [call(PAID_CALL, DONE, "refused")]}, "refused_but_taken"),
    "succeeded for nothing": ({"paid_calls": [paid(PAID_CALL, "failed")]}, "not_billed"),
    "failed, but billed": ({"calls": [call(PAID_CALL, DONE, "failed")]}, "billed"),
    "known and forgotten": ({"calls": [call(PAID_CALL, DONE, "abandoned")]}, "unnoticed"),
    "other units": (
        {"paid_calls": [paid(PAID_CALL, "billed", billable_units=2)]},
        "billable_units",
    ),
    "a step paid twice": (
        {
            "calls": [call(PAID_CALL, DONE, "succeeded"), call(OTHER, DONE, "succeeded")],
            "paid_calls": [paid(PAID_CALL, "billed"), paid(OTHER, "billed")],
        },
        "paid_twice",
    ),
    "a slot is held": (
        {"pending": {"tasks": 0, "slots": 1, "polls": 0, "generations": 0}},
        "left_over",
    ),
    "a dead letter": (
        {
            "dead_letters": [
                {"id": OTHER, "job": "x", "args": {}, "failures": {"error": 8}, "error": "e"}
            ]
        },
        "dead_letter",
    ),
    "a late image of a delivered one": ({"late_images": [{"generation_id": DONE}]}, "late_image"),
    "another state than shown": ({"generations": [generation(DONE, "failed")]}, "shown_state"),
    "a lost order": ({"generations": []}, "vanished"),
    "an order of nobody": (
        {"generations": [generation(DONE, "succeeded"), generation(OTHER, "succeeded")]},
        "nobody_ordered",
    ),
    "another owner": ({"generations": [generation(DONE, "succeeded", user_id=OTHER)]}, "owner"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_broken_rule_is_found(broken: str) -> None:
    changes, rule = BROKEN[broken]
    assert rule in rules(ledgers(**changes))


def test_money_shown_to_a_client_must_match() -> None:
    shown = [Promise(str(DONE), str(ANN), "succeeded", "refunded"), PROMISES[1]]
    assert rules(ledgers(), shown) == {"shown_money"}


def test_a_resubmission_may_be_billed_twice_and_is_named() -> None:
    found = ledgers(
        calls=[
            call(OTHER, DONE, "abandoned", **UNREPORTED),
            call(PAID_CALL, DONE, "succeeded", is_resubmission=True),
            call(FAILED_CALL, REFUNDED, "failed"),
        ],
        paid_calls=[paid(OTHER, "billed"), paid(PAID_CALL, "billed"), paid(FAILED_CALL, "failed")],
    )
    assert rules(found) == set()
    counts = violations.count(found)["provider_calls"]
    assert [each["call"] for each in counts["resubmissions"]] == [str(PAID_CALL)]
    assert counts["paid_unreported"] == [str(OTHER)]
