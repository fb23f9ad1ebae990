"""Every way a generation ends without an image, once: its code, when it is chosen, its words.

The code is stored and sent; the sentence is looked up when it is shown. SQL knows the
codes that it writes itself (`generations_ending` lists them all), and no sentence.
"""

from enum import StrEnum

from core.generations.providers.types import Failure, FailureCause, NotAccepted
from core.pixels.faults import OutputFault
from core.words.say import say


class Ending(StrEnum):
    CANCELLED = "cancelled"
    CONTENT_REFUSED = "content_refused"
    INPUT_REFUSED = "input_refused"
    PHOTO_TOO_SMALL = "photo_too_small"
    PHOTO_TOO_LARGE = "photo_too_large"
    PHOTO_FILE_TOO_LARGE = "photo_file_too_large"
    PHOTO_FORMAT = "photo_format"
    PHOTO_UNREADABLE = "photo_unreadable"
    PHOTO_NOT_FETCHED = "photo_not_fetched"
    FACE_NOT_FOUND = "face_not_found"
    PARAMS_REFUSED = "params_refused"
    REQUEST_REFUSED = "request_refused"
    MODEL_MISSING = "model_missing"
    PROVIDER_FAILED = "provider_failed"
    PROVIDER_FAILED_ONCE = "provider_failed_once"
    NO_IMAGE = "no_image"
    WAITED_TOO_LONG = "waited_too_long"
    NOT_STARTED_IN_TIME = "not_started_in_time"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    PHOTO_MISSING = "photo_missing"
    PARAMS_INVALID = "params_invalid"
    DELIVERY_FAILED = "delivery_failed"
    OUTPUT_BROKEN = "output_broken"
    OUTPUT_FLAGGED = "output_flagged"
    # The image broke the operation's output rule: one for each OutputFault.
    OUTPUT_BAD_PARAMETERS = "output_bad_parameters"
    OUTPUT_EMPTY = "output_empty_output"
    OUTPUT_TOO_MANY_BYTES = "output_too_many_bytes"
    OUTPUT_WRONG_TYPE = "output_wrong_type"
    OUTPUT_UNDECODABLE = "output_undecodable"
    OUTPUT_ABSURD_SIZE = "output_absurd_size"
    OUTPUT_BLANK = "output_blank"
    OUTPUT_ASPECT_CHANGED = "output_aspect_changed"
    OUTPUT_NOT_ENLARGED = "output_not_enlarged"
    OUTPUT_NO_ALPHA = "output_no_alpha"
    OUTPUT_SIZE_MISMATCH = "output_size_mismatch"
    OUTPUT_NOTHING_FOUND = "output_nothing_found"
    OUTPUT_BACKGROUND_NOT_FOUND = "output_background_not_found"


_OF_CAUSE = {
    FailureCause.CONTENT: Ending.CONTENT_REFUSED,
    FailureCause.INPUT: Ending.INPUT_REFUSED,
    FailureCause.PHOTO_TOO_SMALL: Ending.PHOTO_TOO_SMALL,
    FailureCause.PHOTO_TOO_LARGE: Ending.PHOTO_TOO_LARGE,
    FailureCause.PHOTO_FILE_TOO_LARGE: Ending.PHOTO_FILE_TOO_LARGE,
    FailureCause.PHOTO_FORMAT: Ending.PHOTO_FORMAT,
    FailureCause.PHOTO_UNREADABLE: Ending.PHOTO_UNREADABLE,
    FailureCause.PHOTO_NOT_FETCHED: Ending.PHOTO_NOT_FETCHED,
    FailureCause.FACE: Ending.FACE_NOT_FOUND,
    FailureCause.PARAMS: Ending.PARAMS_REFUSED,
    FailureCause.NO_IMAGE: Ending.NO_IMAGE,
    FailureCause.START_TIMEOUT: Ending.NOT_STARTED_IN_TIME,
}


def ending_of_failure(
    failure: Failure, *, is_cancel_requested: bool, is_given_up: bool, failures_before: int
) -> Ending:
    """Of a call that the provider says has failed, with no attempt left.

    `is_given_up`: its time is over, so a cancelled call was cancelled by us for that.
    """
    if is_cancel_requested:
        return Ending.CANCELLED
    if failure.cause is FailureCause.CANCELLED and is_given_up:
        return Ending.DEADLINE_EXCEEDED
    return _OF_CAUSE.get(failure.cause) or _failed(failures_before)


def ending_of_lost_call(
    *, is_cancel_requested: bool, is_given_up: bool, failures_before: int
) -> Ending:
    """Of a call that the provider does not know any more, with no attempt left."""
    if is_cancel_requested:
        return Ending.CANCELLED
    return Ending.DEADLINE_EXCEEDED if is_given_up else _failed(failures_before)


def ending_of_refusal(outcome: NotAccepted) -> Ending:
    """Of a submit that would be refused again."""
    return _OF_CAUSE.get(outcome.cause, Ending.INPUT_REFUSED)


def _failed(failures_before: int) -> Ending:
    return Ending.PROVIDER_FAILED if failures_before else Ending.PROVIDER_FAILED_ONCE


def ending_of_output(fault: OutputFault) -> Ending:
    """Of an image that broke the operation's output rule."""
    return Ending(f"output_{fault}")


def ending_in_words(ending: Ending, *, charged_credits: int | None = 0) -> str:
    """What happened, what to do, and what it cost: nothing, or the share of a cancelled run."""
    if charged_credits:
        return say("ending.cancelled_in_part", charged=charged_credits)
    return say(f"ending.{ending}")
