"""Money in words, and one run explained, from rows alone."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest

from core.credits.words import entry_in_words
from core.generations.explain import explain_run
from core.generations.explanation import Outcome, RunRows

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def line(kind: str, debit: str, credit: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "debit": debit,
        "credit": credit,
        "amount": 2,
        "source": "purchase",
        "lot_expires_at": None,
        **more,
    }


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (line("grant", "sales", "available"), "2 credits came in: bought credits."),
        (
            line("grant", "signup", "available", source="signup", lot_expires_at=NOON),
            "2 credits came in: sign-up credits, to be spent by 20 November 2026.",
        ),
        (line("grant", "sales", "debt"), "2 credits of your new bought credits paid your debt."),
        (
            line("reserve", "available", "reserved", amount=1),
            "1 credit set aside, from your bought credits.",
        ),
        (
            line("confirm", "reserved", "usage", source=None),
            "2 credits spent, because the image was delivered.",
        ),
        (
            line("refund", "reserved", "available", lot_expires_at=NOON, source="gift"),
            "2 credits came back to your gift credits, which expire on 20 November 2026.",
        ),
        (
            line(
                "refund",
                "reserved",
                "available",
                lot_expires_at=NOON,
                extended_from=NOON - dt.timedelta(days=8),
            ),
            (
                "2 credits came back to your bought credits. They had expired meanwhile (12"
                " November 2026), so they now live until 20 November 2026."
            ),
        ),
        (line("expire", "available", "expired"), "2 credits expired: bought credits."),
        (
            line("reverse", "available", "sales"),
            "2 credits taken back, because a payment was returned.",
        ),
        (
            line("reverse", "debt", "sales", source=None),
            "2 credits of a returned payment were spent already and are now your debt.",
        ),
        (line("adjust", "available", "adjustments"), "2 credits taken back by a correction."),
        (
            line("adjust", "debt", "adjustments", source=None),
            "2 credits became your debt by a correction.",
        ),
    ],
)
def test_each_line_in_words(row: dict[str, Any], text: str) -> None:
    assert entry_in_words(row) == text


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
    rows: dict[str, Any] = {"transfers": [], "calls": [], "events": [], "late_image": None}
    rows |= {name: changes.pop(name) for name in list(changes) if name in rows}
    return RunRows(generation={**generation, **changes}, **rows)


def test_a_repeated_run_names_the_first() -> None:
    first = uuid.uuid4()
    told = explain_run(run(retry_of=first))
    assert told.outcome is Outcome.RESERVED
    assert told.summary.endswith(f"It repeats generation {first}.")


def test_the_end_and_its_money_stand_together_last() -> None:
    """Bookings carry the start of the transaction that a call's end lies within."""
    end = NOON + dt.timedelta(seconds=5)
    call = {
        "id": uuid.uuid4(),
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
    confirm = line("confirm", "reserved", "usage", source=None) | {
        "id": 2,
        "lot_id": None,
        "created_at": end - dt.timedelta(milliseconds=3),
        "extended_from": None,
    }
    told = explain_run(
        run(
            state="succeeded",
            finished_at=end,
            calls=[call],
            transfers=[confirm],
            events=[{"version": 4, "state": "succeeded", "at": end + dt.timedelta(milliseconds=1)}],
        )
    )
    assert [each.kind.value for each in told.lines[-3:]] == ["provider", "state", "money"]
    assert told.billable_units == "1"
    assert "it billed us 1 unit, you" in told.lines[-3].text


@pytest.mark.parametrize("state", ["refused", "cancelled", "lost", "abandoned", "failed"])
def test_each_end_of_a_call_has_words(state: str) -> None:
    call = {
        "id": uuid.uuid4(),
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
    told = explain_run(run(calls=[call], steps=2))
    assert told.resubmissions == 1
    assert told.lines[0].text.startswith("Call 3, step 2 of 2: sent to fal-ai/x again")
    assert told.lines[-1].text.endswith("call 3 (HTTP 503, server error).")
