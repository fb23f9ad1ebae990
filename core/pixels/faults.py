"""What can be wrong with a result, as words; importing them loads no codec."""

from enum import StrEnum


class OutputFault(StrEnum):
    """How a provider's result differs from what was ordered."""

    EMPTY_OUTPUT = "empty_output"
    TOO_MANY_BYTES = "too_many_bytes"
    WRONG_TYPE = "wrong_type"
    UNDECODABLE = "undecodable"
    ABSURD_SIZE = "absurd_size"
    BLANK = "blank"
    BAD_PARAMETERS = "bad_parameters"
    ASPECT_CHANGED = "aspect_changed"
    NOT_ENLARGED = "not_enlarged"
    NO_ALPHA = "no_alpha"
    SIZE_MISMATCH = "size_mismatch"
    NOTHING_FOUND = "nothing_found"
    BACKGROUND_NOT_FOUND = "background_not_found"
