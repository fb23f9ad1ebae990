"""Which way a generation ends without an image, and that every way is known."""

import re
from pathlib import Path

import pytest

from core.generations.endings import (
    Ending,
    ending_in_words,
    ending_of_failure,
    ending_of_lost_call,
    ending_of_output,
)
from core.generations.providers.types import Failure, FailureCause
from core.pixels.faults import OutputFault

SCHEMA = Path(__file__).resolve().parents[3] / "schema"


def failure(cause: FailureCause) -> Failure:
    return Failure(http_status=500, error_type=None, detail=None, cause=cause)


@pytest.mark.parametrize("fault", OutputFault)
def test_each_fault_of_an_output_is_an_ending(fault: OutputFault) -> None:
    assert ending_in_words(ending_of_output(fault)).endswith("Your credits are back.")


@pytest.mark.parametrize("cause", FailureCause)
@pytest.mark.parametrize("is_given_up", [True, False])
def test_a_failure_that_was_asked_for_is_a_cancellation(
    cause: FailureCause, *, is_given_up: bool
) -> None:
    ending = ending_of_failure(failure(cause), is_cancel_requested=True, is_given_up=is_given_up)
    assert ending is Ending.CANCELLED


@pytest.mark.parametrize(
    ("cause", "ending"),
    [
        (FailureCause.PROVIDER, Ending.PROVIDER_FAILED),
        (FailureCause.INPUT, Ending.INPUT_REFUSED),
        (FailureCause.CONTENT, Ending.CONTENT_REFUSED),
        (FailureCause.NO_IMAGE, Ending.NO_IMAGE),
        (FailureCause.START_TIMEOUT, Ending.NOT_STARTED_IN_TIME),
    ],
)
def test_the_cause_decides(cause: FailureCause, ending: Ending) -> None:
    for is_given_up in (True, False):
        found = ending_of_failure(
            failure(cause), is_cancel_requested=False, is_given_up=is_given_up
        )
        assert found is ending


def test_what_we_stopped_ran_out_of_time() -> None:
    stopped = failure(FailureCause.CANCELLED)
    for is_given_up, ending in ((True, Ending.DEADLINE_EXCEEDED), (False, Ending.PROVIDER_FAILED)):
        asked = {"is_cancel_requested": False, "is_given_up": is_given_up}
        assert ending_of_failure(stopped, **asked) is ending
        assert ending_of_lost_call(**asked) is ending
    assert ending_of_lost_call(is_cancel_requested=True, is_given_up=True) is Ending.CANCELLED


def test_sql_writes_codes_that_are_known_and_no_sentence() -> None:
    text = "\n".join(path.read_text() for path in SCHEMA.glob("*.sql"))
    documents = re.findall(r"'ending', (.*?)\)", text, re.DOTALL)
    codes = {code for document in documents for code in re.findall(r"'(\w+)'", document)}
    codes |= set(re.findall(r'"ending": "(\w+)"', text))
    assert {"cancelled", "deadline_exceeded"} <= codes <= set(Ending)
    assert "Your credits are back" not in text
