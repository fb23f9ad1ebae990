"""Why a caller is refused: reasons of ours, and those of Supabase Auth as it spells them."""

from core.errors import DomainError, InJobs, InvalidInputError, Reason


class AccessReason(Reason):
    ADMIN_KEY = "admin_key"
    ADMIN_REQUIRED = "admin_required"
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    EXPIRED_TOKEN = "expired_token"  # noqa: S105  a word
    FACTOR_NOT_CONFIRMED = "factor_not_confirmed"
    INTERNAL_TOKEN = "internal_token"  # noqa: S105  a word
    INVALID_TOKEN = "invalid_token"  # noqa: S105  a word
    MALFORMED_TOKEN = "malformed_token"  # noqa: S105  a word
    METRICS_TOKEN = "metrics_token"  # noqa: S105  a word
    MFA_REQUIRED = "mfa_required"
    NO_TOKEN = "no_token"  # noqa: S105  a word
    NOT_A_USER_TOKEN = "not_a_user_token"  # noqa: S105  a word
    NOT_AN_ADMIN = "not_an_admin"
    REFUSED = "refused"
    SECOND_FACTOR_TOO_OLD = "second_factor_too_old"
    TOKEN_HASH_OR_EMAIL_AND_CODE_NEEDED = "token_hash_or_email_and_code_needed"  # noqa: S105  a word
    UNKNOWN_KEY = "unknown_key"

    # The codes of Supabase Auth, as it spells them.
    BAD_JSON = "bad_json"
    BAD_JWT = "bad_jwt"
    CAPTCHA_FAILED = "captcha_failed"
    CONFLICT = "conflict"
    CURRENT_PASSWORD_INVALID = "current_password_invalid"  # noqa: S105  a word
    CURRENT_PASSWORD_REQUIRED = "current_password_required"  # noqa: S105  a word
    EMAIL_ADDRESS_INVALID = "email_address_invalid"
    EMAIL_ADDRESS_NOT_AUTHORIZED = "email_address_not_authorized"
    EMAIL_EXISTS = "email_exists"
    EMAIL_NOT_CONFIRMED = "email_not_confirmed"
    EMAIL_PROVIDER_DISABLED = "email_provider_disabled"
    INSUFFICIENT_AAL = "insufficient_aal"
    INVALID_CREDENTIALS = "invalid_credentials"
    MFA_CHALLENGE_EXPIRED = "mfa_challenge_expired"
    MFA_FACTOR_NAME_CONFLICT = "mfa_factor_name_conflict"
    MFA_IP_ADDRESS_MISMATCH = "mfa_ip_address_mismatch"
    MFA_TOTP_ENROLL_NOT_ENABLED = "mfa_totp_enroll_not_enabled"
    MFA_TOTP_VERIFY_NOT_ENABLED = "mfa_totp_verify_not_enabled"
    MFA_VERIFICATION_FAILED = "mfa_verification_failed"
    MFA_VERIFICATION_REJECTED = "mfa_verification_rejected"
    MFA_VERIFIED_FACTOR_EXISTS = "mfa_verified_factor_exists"
    NO_AUTHORIZATION = "no_authorization"
    OTP_DISABLED = "otp_disabled"
    OTP_EXPIRED = "otp_expired"
    REAUTHENTICATION_NEEDED = "reauthentication_needed"
    REFRESH_TOKEN_ALREADY_USED = "refresh_token_already_used"  # noqa: S105  a word
    REFRESH_TOKEN_NOT_FOUND = "refresh_token_not_found"  # noqa: S105  a word
    SAME_PASSWORD = "same_password"  # noqa: S105  a word
    SESSION_EXPIRED = "session_expired"
    SESSION_NOT_FOUND = "session_not_found"
    SIGNUP_DISABLED = "signup_disabled"
    TOO_MANY_ENROLLED_MFA_FACTORS = "too_many_enrolled_mfa_factors"
    USER_ALREADY_EXISTS = "user_already_exists"
    USER_BANNED = "user_banned"
    USER_NOT_FOUND = "user_not_found"
    VALIDATION_FAILED = "validation_failed"
    WEAK_PASSWORD = "weak_password"  # noqa: S105  a word


class NoIdentityError(DomainError):
    """The request or the transaction carries no verified user."""

    sqlstate = "JS401"
    in_jobs = InJobs.NEVER

    reason: AccessReason = AccessReason.NO_TOKEN


class BadCredentialsError(DomainError):
    """Sign-in, token or one-time code refused."""

    in_jobs = InJobs.NEVER

    reason: AccessReason


class WeakPasswordError(InvalidInputError):
    """`reasons` are the words of Supabase Auth: length, characters, pwned."""

    in_jobs = InJobs.NEVER

    field: str = "password"
    reason: Reason = AccessReason.WEAK_PASSWORD
    reasons: tuple[str, ...] = ()
