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
    ending = ending_of_failure(
        failure(cause), is_cancel_requested=True, is_given_up=is_given_up, failures_before=0
    )
    assert ending is Ending.CANCELLED


@pytest.mark.parametrize(
    ("cause", "ending"),
    [
        (FailureCause.PROVIDER, Ending.PROVIDER_FAILED),
        (FailureCause.INPUT, Ending.INPUT_REFUSED),
        (FailureCause.PHOTO_TOO_SMALL, Ending.PHOTO_TOO_SMALL),
        (FailureCause.PHOTO_NOT_FETCHED, Ending.PHOTO_NOT_FETCHED),
        (FailureCause.PARAMS, Ending.PARAMS_REFUSED),
        (FailureCause.CONTENT, Ending.CONTENT_REFUSED),
        (FailureCause.NO_IMAGE, Ending.NO_IMAGE),
        (FailureCause.START_TIMEOUT, Ending.NOT_STARTED_IN_TIME),
    ],
)
def test_the_cause_decides(cause: FailureCause, ending: Ending) -> None:
    for is_given_up in (True, False):
        found = ending_of_failure(
            failure(cause), is_cancel_requested=False, is_given_up=is_given_up, failures_before=1
        )
        assert found is ending


def test_it_failed_more_than_once_only_when_it_did() -> None:
    once = ending_of_failure(
        failure(FailureCause.PROVIDER),
        is_cancel_requested=False,
        is_given_up=False,
        failures_before=0,
    )
    assert once is Ending.PROVIDER_FAILED_ONCE
    assert "more than once" not in ending_in_words(once)
    assert "more than once" in ending_in_words(Ending.PROVIDER_FAILED)


def test_every_cause_has_an_ending() -> None:
    for cause in FailureCause:
        ending = ending_of_failure(
            failure(cause), is_cancel_requested=False, is_given_up=False, failures_before=1
        )
        assert ending_in_words(ending).endswith("Your credits are back.")


def test_what_we_stopped_ran_out_of_time() -> None:
    stopped = failure(FailureCause.CANCELLED)
    for is_given_up, ending in ((True, Ending.DEADLINE_EXCEEDED), (False, Ending.PROVIDER_FAILED)):
        asked = {"is_cancel_requested": False, "is_given_up": is_given_up}
        assert ending_of_failure(stopped, **asked, failures_before=1) is ending
        assert ending_of_lost_call(**asked, failures_before=1) is ending
    cancelled = ending_of_lost_call(is_cancel_requested=True, is_given_up=True, failures_before=0)
    assert cancelled is Ending.CANCELLED


def test_sql_writes_codes_that_are_known_and_no_sentence() -> None:
    text = "\n".join(path.read_text() for path in SCHEMA.glob("*.sql"))
    documents = re.findall(r"'ending', (.*?)\)", text, re.DOTALL)
    codes = {code for document in documents for code in re.findall(r"'(\w+)'", document)}
    codes |= set(re.findall(r'"ending": "(\w+)"', text))
    assert {"cancelled", "deadline_exceeded"} <= codes <= set(Ending)
    assert "Your credits are back" not in text
