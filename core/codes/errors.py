"""Why a promo or gift code is refused."""

import datetime as dt
import uuid

from core.errors import ConflictError, DomainError, InJobs, Reason


class CodeReason(Reason):
    CODES_SHOWN_ONCE = "codes_shown_once"
    NOT_THE_BEGINNING_OF_A_CODE = "not_the_beginning_of_a_code"
    REDEEMED_WITH_ANOTHER_ACCOUNT = "redeemed_with_another_account"


class UnknownCodeError(DomainError):
    """No such promo or gift code; a withdrawn one looks the same."""

    sqlstate = "JS440"
    in_jobs = InJobs.NEVER


class ExpiredCodeError(DomainError):
    """The code's time is over."""

    sqlstate = "JS441"
    in_jobs = InJobs.NEVER

    expired_at: dt.datetime


class UsedUpCodeError(DomainError):
    """The code was redeemed as often as it may be."""

    sqlstate = "JS442"
    in_jobs = InJobs.NEVER


class CodesShownOnceError(ConflictError):
    """The codes of this issue were made and shown; nobody can show them again."""

    in_jobs = InJobs.NEVER
    for_reasons = (CodeReason.CODES_SHOWN_ONCE,)

    issue_id: uuid.UUID
