"""One run explained, from rows alone."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from core.generations.explain import explain_run
from core.generations.explanation import Outcome, RunRows

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def run(**changes: Any) -> RunRows:
    generation = {
        "id": uuid.uuid4(),
        "operation": "packshot",
        "title": "Packshot",
        "lane": "locked",
        "state": "queued",
        "cost_credits": 1,
        "retry_of": None,
        "cancel_requested_at": None,
        "ending": None,
        "created_at": NOON,
        "finished_at": None,
        "steps": 1,
    }
    rows: dict[str, Any] = {"transfers": [], "calls": [], "states": [], "late_image": None}
    rows |= {name: changes.pop(name) for name in list(changes) if name in rows}
    return msgspec.convert({"generation": {**generation, **changes}, **rows}, RunRows)


def test_a_repeated_run_names_the_first() -> None:
    first = uuid.uuid4()
    explained = explain_run(run(retry_of=first))
    assert explained.outcome is Outcome.RESERVED
    assert explained.summary.endswith(f"It repeats generation {first}.")


def test_the_end_and_its_money_stand_together_last() -> None:
    """Bookings carry the start of the transaction that a call's end lies within."""
    end = NOON + dt.timedelta(seconds=5)
    call = {
        "call_id": uuid.uuid4(),
        "step": 0,
        "attempt": 1,
        "endpoint": "fal-ai/x",
        "state": "succeeded",
        "is_resubmission": False,
        "accepted_at": NOON + dt.timedelta(seconds=1),
        "ended_at": end - dt.timedelta(milliseconds=1),
        "http_status": 200,
        "error_type": None,
        "billable_units": Decimal("1.000"),
        "created_at": NOON,
    }
    confirm = {
        "kind": "confirm",
        "amount": 2,
        "debit": "reserved",
        "credit": "usage",
        "source": None,
        "lot_expires_at": None,
        "entry_id": 2,
        "lot_id": None,
        "created_at": end - dt.timedelta(milliseconds=3),
        "extended_from": None,
    }
    explained = explain_run(
        run(
            state="succeeded",
            finished_at=end,
            calls=[call],
            transfers=[confirm],
            states=[{"version": 4, "state": "succeeded", "at": end + dt.timedelta(milliseconds=1)}],
        )
    )
    assert [each.kind.value for each in explained.lines[-3:]] == ["provider", "state", "money"]
    assert explained.billable_units == "1"
    assert "it billed us 1 unit, you" in explained.lines[-3].text


@pytest.mark.parametrize("state", ["refused", "cancelled", "lost", "abandoned", "failed"])
def test_each_end_of_a_call_has_words(state: str) -> None:
    call = {
        "call_id": uuid.uuid4(),
        "step": 1,
        "attempt": 3,
        "endpoint": "fal-ai/x",
        "state": state,
        "is_resubmission": True,
        "accepted_at": None,
        "ended_at": NOON,
        "http_status": 503,
        "error_type": "server_error",
        "billable_units": None,
        "created_at": NOON,
    }
    explained = explain_run(run(calls=[call], steps=2))
    assert explained.resubmissions == 1
    sent, ended = (each for each in explained.lines if each.call is not None)
    assert sent.text.startswith("Call 3, step 2 of 2: sent to fal-ai/x again")
    assert ended.text.endswith("call 3 (HTTP 503, server error).")
