"""Why a generation ended without an image: stable codes, and words that say what to do."""

from core.generations.types import Problem

REFUNDED = "Your credits are back."

CANCELLED = Problem("cancelled", f"Cancelled before an image was made. {REFUNDED}")
CONTENT_REFUSED = Problem(
    "content_refused",
    f"The provider's content policy refused this request. Change the text or photo. {REFUNDED}",
)
INPUT_REFUSED = Problem(
    "input_refused",
    f"The provider could not work with this photo or these parameters. {REFUNDED}",
)
PROVIDER_FAILED = Problem(
    "provider_failed", f"The provider failed more than once. Try again later. {REFUNDED}"
)
NO_IMAGE = Problem(
    "no_image", f"The provider answered without an image. Try again with other words. {REFUNDED}"
)
OUTPUT_BROKEN = Problem(
    "output_broken", f"The provider's image was damaged or missing. Try again. {REFUNDED}"
)
OUTPUT_FLAGGED = Problem(
    "output_flagged", f"The provider's safety check flagged the image it made. {REFUNDED}"
)
NOT_STARTED_IN_TIME = Problem(
    "deadline_exceeded", f"The provider did not start in time. {REFUNDED}"
)
OUT_OF_TIME = Problem("deadline_exceeded", f"The image was not finished in time. {REFUNDED}")
PHOTO_MISSING = Problem(
    "photo_missing", f"The photo is not there any more. Upload it again. {REFUNDED}"
)
PARAMS_INVALID = Problem("params_invalid", f"These parameters are not valid. {REFUNDED}")


def output_rule_broken(reason: str, detail: str) -> Problem:
    """The image broke the operation's output rule, `reason` says which."""
    return Problem(f"output_{reason}", f"{detail} {REFUNDED}")
