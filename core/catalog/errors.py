"""Why a run of an operation of the catalogue is refused."""

from core.errors import InJobs, InvalidInputError, Reason


class CatalogReason(Reason):
    FACTOR_TOO_LARGE = "factor_too_large"
    PARAMS_DO_NOT_FIT = "params_do_not_fit"
    PHOTO_TOO_LARGE_FOR_STEP = "photo_too_large_for_step"
    PHOTO_TOO_LARGE_TO_ENLARGE = "photo_too_large_to_enlarge"
    PHOTO_TOO_LONG_FOR_STEP = "photo_too_long_for_step"
    PHOTO_TOO_SMALL_FOR_STEP = "photo_too_small_for_step"


class PhotoTooSmallError(InvalidInputError):
    """A step needs a larger picture. Pixels."""

    in_jobs = InJobs.NEVER
    for_reasons = (CatalogReason.PHOTO_TOO_SMALL_FOR_STEP,)

    width: int
    height: int
    side_min: int


class PhotoTooLongError(InvalidInputError):
    """A step takes no picture with so long a side. Pixels."""

    in_jobs = InJobs.NEVER
    for_reasons = (CatalogReason.PHOTO_TOO_LONG_FOR_STEP,)

    width: int
    height: int
    side_max: int


class PhotoTooLargeError(InvalidInputError):
    """A step takes no picture of so many pixels."""

    in_jobs = InJobs.NEVER
    for_reasons = (CatalogReason.PHOTO_TOO_LARGE_FOR_STEP,)

    width: int
    height: int
    limit_pixels: int


class TooLargeToEnlargeError(InvalidInputError):
    """Even the smallest factor of the operation makes more pixels than its step returns."""

    in_jobs = InJobs.NEVER
    for_reasons = (CatalogReason.PHOTO_TOO_LARGE_TO_ENLARGE,)

    width: int
    height: int
    factor: float
    output_pixels: int
    limit_pixels: int


class FactorTooLargeError(InvalidInputError):
    """The ordered factor makes more pixels than the step returns; `factor_max` is one that fits."""

    in_jobs = InJobs.NEVER
    for_reasons = (CatalogReason.FACTOR_TOO_LARGE,)

    width: int
    height: int
    factor: float
    factor_max: float
    output_pixels: int
