"""Why an account is not open, or was opened without credits."""

from core.errors import Reason


class OpeningReason(Reason):
    ACCOUNT_NOT_OPEN = "account_not_open"
    ALREADY_GRANTED = "already_granted"
    DAY_LIMIT = "day_limit"
    DISPOSABLE_ADDRESS = "disposable_address"
    DOMAIN_LIMIT = "domain_limit"
    EMAIL_NOT_VERIFIED = "email_not_verified"
    NETWORK_LIMIT = "network_limit"
    PERSON_HAD_CREDITS = "person_had_credits"
