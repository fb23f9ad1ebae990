"""Supabase Auth through its official client: sign-up, sign-in, sessions, recovery, second factor.

One client object per call: it is stateful, and a shared one would mix up people. A refusal of
the service becomes a DomainError by its stable code; its message text is never passed on.

Calls carry the project's secret key, because only then the service believes `Sb-Forwarded-For` and
counts its own limits for who asked and not for this server; it refuses that key from a browser's
User-Agent, so ours stands there. A call for a user has that user's token in `Authorization`.
"""

import base64
import binascii
import contextlib
import datetime as dt
import hashlib
import re
import uuid
from collections.abc import AsyncIterator
from typing import Literal, cast

import httpx
import msgspec
import structlog
from supabase_auth import AsyncGoTrueClient, AsyncMemoryStorage
from supabase_auth.errors import (
    AuthError,
    AuthRetryableError,
    AuthSessionMissingError,
    AuthUnknownError,
)
from supabase_auth.types import AuthResponse, Session, User, UserAttributes, VerifyOtpParams

from core.errors import (
    ConflictError,
    DomainError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    RateLimitedError,
    TemporarilyUnavailableError,
)
from core.identity.errors import AccessReason, BadCredentialsError, WeakPasswordError
from core.identity.tokens import Claims
from core.networks import find_address
from core.settings import Settings

log = structlog.get_logger()

LinkType = Literal["email", "signup", "invite", "magiclink", "recovery", "email_change"]
SignOutScope = Literal["global", "local", "others"]
_STORAGE_KEY = "session"
_STORED_SESSION_SECONDS = 600
_RETRY_SECONDS = 60
USER_AGENT = "jewelshot-api"
FORWARDED_FOR = "Sb-Forwarded-For"

_Refusal = type[BadCredentialsError] | type[NotAllowedError] | type[ConflictError]
_REFUSALS: dict[str, _Refusal] = {
    AccessReason.INVALID_CREDENTIALS: BadCredentialsError,
    AccessReason.OTP_EXPIRED: BadCredentialsError,
    AccessReason.BAD_JWT: BadCredentialsError,
    AccessReason.NO_AUTHORIZATION: BadCredentialsError,
    AccessReason.SESSION_NOT_FOUND: BadCredentialsError,
    AccessReason.SESSION_EXPIRED: BadCredentialsError,
    AccessReason.REFRESH_TOKEN_NOT_FOUND: BadCredentialsError,
    AccessReason.REFRESH_TOKEN_ALREADY_USED: BadCredentialsError,
    AccessReason.USER_NOT_FOUND: BadCredentialsError,
    AccessReason.CURRENT_PASSWORD_INVALID: BadCredentialsError,
    AccessReason.MFA_VERIFICATION_FAILED: BadCredentialsError,
    AccessReason.MFA_VERIFICATION_REJECTED: BadCredentialsError,
    AccessReason.MFA_CHALLENGE_EXPIRED: BadCredentialsError,
    AccessReason.MFA_IP_ADDRESS_MISMATCH: BadCredentialsError,
    AccessReason.EMAIL_NOT_CONFIRMED: NotAllowedError,
    AccessReason.USER_BANNED: NotAllowedError,
    AccessReason.SIGNUP_DISABLED: NotAllowedError,
    AccessReason.EMAIL_PROVIDER_DISABLED: NotAllowedError,
    AccessReason.OTP_DISABLED: NotAllowedError,
    AccessReason.INSUFFICIENT_AAL: NotAllowedError,
    AccessReason.REAUTHENTICATION_NEEDED: NotAllowedError,
    AccessReason.CURRENT_PASSWORD_REQUIRED: NotAllowedError,
    AccessReason.MFA_TOTP_ENROLL_NOT_ENABLED: NotAllowedError,
    AccessReason.MFA_TOTP_VERIFY_NOT_ENABLED: NotAllowedError,
    AccessReason.EMAIL_ADDRESS_NOT_AUTHORIZED: NotAllowedError,
    AccessReason.CAPTCHA_FAILED: NotAllowedError,
    AccessReason.USER_ALREADY_EXISTS: ConflictError,
    AccessReason.EMAIL_EXISTS: ConflictError,
    AccessReason.CONFLICT: ConflictError,
    AccessReason.MFA_FACTOR_NAME_CONFLICT: ConflictError,
    AccessReason.MFA_VERIFIED_FACTOR_EXISTS: ConflictError,
    AccessReason.TOO_MANY_ENROLLED_MFA_FACTORS: ConflictError,
}
_REFUSED_FIELDS: dict[str, str] = {
    AccessReason.SAME_PASSWORD: "password",
    AccessReason.EMAIL_ADDRESS_INVALID: "email",
}
_NO_FACTOR = "mfa_factor_not_found"
_MALFORMED = frozenset({AccessReason.VALIDATION_FAILED, AccessReason.BAD_JSON})
# The minute between two mails to one address, and the project's mails of an hour. Told to a caller,
# either would tell who has an account: no mail is due to an unknown address.
_MAIL_LIMIT = "over_email_send_rate_limit"
_REQUEST_LIMIT = "over_request_rate_limit"

# Refresh tokens that the service has issued: 12 letters and digits, or (before and after these) at
# least 16 characters of base64url. The newest form is 38 to 46 bytes that begin with its version,
# 0, and end with a checksum of 4 bytes, made so that others need not be looked up.
_REFRESH_TOKEN = re.compile(r"[A-Za-z0-9]{12}|[A-Za-z0-9_-]{16,128}")
_SIGNED_TOKEN_CHARACTERS = range(51, 63)
_CHECKSUM_BYTES = 4


class SignedIn(msgspec.Struct, frozen=True):
    """An auth session as the service issued it; `user_id` is not yet verified from the token."""

    access_token: str
    refresh_token: str
    expires_in: int
    user_id: str


class SignedUp(msgspec.Struct, frozen=True):
    """`session` is None while the address waits for its confirmation."""

    session: SignedIn | None


class EnrolledFactor(msgspec.Struct, frozen=True):
    id: uuid.UUID
    secret: str
    uri: str
    qr_code: str


class Factor(msgspec.Struct, frozen=True):
    """`status` is `verified` once a first code was shown."""

    id: uuid.UUID
    friendly_name: str
    factor_type: str
    status: str
    created_at: dt.datetime


class Challenge(msgspec.Struct, frozen=True):
    id: uuid.UUID
    expires_at: dt.datetime


class SupabaseAuth:
    def __init__(
        self, settings: Settings, http: httpx.AsyncClient, *, client_ip: str | None = None
    ) -> None:
        self._settings = settings
        self._url = f"{settings.supabase_url}/auth/v1"
        self._key = settings.supabase_secret_key.get_secret_value()
        address = None if client_ip is None else find_address(client_ip)
        self._forwarded_for = {} if address is None else {FORWARDED_FOR: str(address)}
        self._confirm_url = f"{settings.public_base_url}/auth/confirm"
        self._http = http

    def called_from(self, client_ip: str) -> "SupabaseAuth":
        """The same, calling for this address."""
        return SupabaseAuth(self._settings, self._http, client_ip=client_ip)

    async def sign_up(self, email: str, password: str) -> SignedUp:
        """No session while the address waits for its confirmation, and none where no mail may be
        sent just now: a known address is not to be told from an unknown one."""
        session = None
        async with self._client(checks="email") as client, _mail_limits_ignored():
            answer = await client.sign_up(
                {
                    "email": email,
                    "password": password,
                    "options": {"email_redirect_to": self._confirm_url},
                }
            )
            session = answer.session
        return SignedUp(_signed_in(session) if session else None)

    async def sign_in(self, email: str, password: str) -> SignedIn:
        async with self._client() as client:
            answer = await client.sign_in_with_password({"email": email, "password": password})
        return _require_session(answer)

    async def confirm_link(self, token_hash: str, link_type: LinkType) -> SignedIn | None:
        """The session of a mailed link; None after the first of two links of a changed address."""
        return await self._verify({"token_hash": token_hash, "type": link_type})

    async def confirm_code(self, email: str, code: str, link_type: LinkType) -> SignedIn | None:
        return await self._verify(
            cast("VerifyOtpParams", {"email": email, "token": code, "type": link_type})
        )

    async def _verify(self, params: VerifyOtpParams) -> SignedIn | None:
        async with self._client() as client:
            answer = await client.verify_otp(params)
        return _signed_in(answer.session) if answer.session else None

    async def refresh(self, refresh_token: str) -> SignedIn:
        """The service is not asked about what it cannot have issued: its tries are few."""
        if not may_be_refresh_token(refresh_token):
            raise BadCredentialsError(reason=AccessReason.REFRESH_TOKEN_NOT_FOUND)
        async with self._client() as client:
            answer = await client.refresh_session(refresh_token)
        return _require_session(answer)

    async def sign_out(self, access_token: str, scope: SignOutScope) -> None:
        async with self._client() as client:
            try:
                await client.admin.sign_out(access_token, scope)
            except AuthError as error:
                # The auth session has ended already, as requested.
                if error.code not in {"session_not_found", "user_not_found"}:
                    raise

    async def recover(self, email: str) -> None:
        async with self._client(checks="email") as client, _mail_limits_ignored():
            await client.reset_password_for_email(email, {"redirect_to": self._confirm_url})

    async def resend_confirmation(self, email: str) -> None:
        async with self._client(checks="email") as client, _mail_limits_ignored():
            await client.resend(
                {
                    "type": "signup",
                    "email": email,
                    "options": {"email_redirect_to": self._confirm_url},
                }
            )

    async def update_password(
        self, access_token: str, claims: Claims, password: str, current_password: str | None
    ) -> None:
        attributes: dict[str, str] = {"password": password}
        if current_password is not None:
            attributes["current_password"] = current_password
        async with self._client_of(access_token, claims) as client:
            await client.update_user(cast("UserAttributes", attributes))

    async def enroll_totp(
        self, access_token: str, claims: Claims, friendly_name: str
    ) -> EnrolledFactor:
        async with self._client_of(access_token, claims) as client:
            answer = await client.mfa.enroll(
                {"factor_type": "totp", "friendly_name": friendly_name, "issuer": "Jewelshot"}
            )
        if answer.totp is None:
            raise TemporarilyUnavailableError(what="sign_in")
        return EnrolledFactor(
            uuid.UUID(answer.id), answer.totp.secret, answer.totp.uri, answer.totp.qr_code
        )

    async def list_factors(self, access_token: str) -> list[Factor]:
        async with self._client() as client:
            answer = await client.get_user(access_token)
        found = [] if answer is None else answer.user.factors or []
        return [
            Factor(
                uuid.UUID(factor.id),
                factor.friendly_name or "",
                factor.factor_type,
                factor.status,
                factor.created_at,
            )
            for factor in found
        ]

    async def challenge(self, access_token: str, claims: Claims, factor_id: uuid.UUID) -> Challenge:
        async with self._client_of(access_token, claims) as client:
            answer = await client.mfa.challenge({"factor_id": str(factor_id)})
        return Challenge(uuid.UUID(answer.id), dt.datetime.fromtimestamp(answer.expires_at, dt.UTC))

    async def verify_factor(
        self,
        access_token: str,
        claims: Claims,
        *,
        factor_id: uuid.UUID,
        challenge_id: uuid.UUID,
        code: str,
    ) -> SignedIn:
        async with self._client_of(access_token, claims) as client:
            answer = await client.mfa.verify(
                {
                    "factor_id": str(factor_id),
                    "challenge_id": str(challenge_id),
                    "code": code,
                }
            )
        return SignedIn(
            answer.access_token, answer.refresh_token, answer.expires_in, answer.user.id
        )

    async def remove_factor(self, access_token: str, claims: Claims, factor_id: uuid.UUID) -> None:
        async with self._client_of(access_token, claims) as client:
            await client.mfa.unenroll({"factor_id": str(factor_id)})

    @contextlib.asynccontextmanager
    async def _client(
        self, storage: AsyncMemoryStorage | None = None, *, checks: str = "body"
    ) -> AsyncIterator[AsyncGoTrueClient]:
        """Implicit flow: the PKCE verifier would be lost with this object.

        `checks` is the field that a failed validation is about.

        Raises: DomainError for whatever the service refuses.
        """
        client = AsyncGoTrueClient(
            url=self._url,
            headers={
                "apiKey": self._key,
                "Authorization": f"Bearer {self._key}",
                "User-Agent": USER_AGENT,
                **self._forwarded_for,
            },
            http_client=self._http,
            storage_key=_STORAGE_KEY,
            storage=storage,
            persist_session=storage is not None,
            auto_refresh_token=False,
            flow_type="implicit",
        )
        try:
            yield client
        except AuthError as error:
            raise _refusal(error, checks) from error
        except (httpx.HTTPError, ValueError) as error:  # pydantic raises ValueErrors
            log.warning("auth.bad_answer", error=type(error).__name__)
            raise TemporarilyUnavailableError(what="sign_in") from error

    @contextlib.asynccontextmanager
    async def _client_of(
        self, access_token: str, claims: Claims
    ) -> AsyncIterator[AsyncGoTrueClient]:
        """A client that acts as the caller, whose token is in its session storage.

        There is no refresh token in it, so it can never rotate the caller's session.
        """
        now = dt.datetime.now(dt.UTC)
        session = Session(
            access_token=access_token,
            refresh_token="",
            token_type="bearer",  # noqa: S106  the scheme's name
            expires_in=_STORED_SESSION_SECONDS,
            # The client would try to refresh a token in its last seconds; the service decides.
            expires_at=int(now.timestamp()) + _STORED_SESSION_SECONDS,
            user=User(
                id=str(claims.user_id),
                app_metadata={},
                user_metadata={},
                aud="authenticated",
                created_at=now,
            ),
        )
        storage = AsyncMemoryStorage()
        await storage.set_item(_STORAGE_KEY, session.model_dump_json())
        async with self._client(storage) as client:
            yield client


def may_be_refresh_token(text: str) -> bool:
    """Whether the service can have issued it, by its form."""
    if _REFRESH_TOKEN.fullmatch(text) is None:
        return False
    if len(text) not in _SIGNED_TOKEN_CHARACTERS:
        return True
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return False
    signed, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    return raw[0] != 0 or hashlib.sha256(signed).digest()[:_CHECKSUM_BYTES] == checksum


@contextlib.asynccontextmanager
async def _mail_limits_ignored() -> AsyncIterator[None]:
    try:
        yield
    except AuthError as error:
        if error.code != _MAIL_LIMIT:
            raise
        log.warning("auth.mail_not_sent", code=error.code)


def _refusal(error: AuthError, checks: str) -> DomainError:
    code: str = error.code or ""
    if code in {_MAIL_LIMIT, _REQUEST_LIMIT}:
        return RateLimitedError(retry_after_seconds=_RETRY_SECONDS, policy="sign_in")
    if code in _MALFORMED:
        return InvalidInputError(field=checks, reason=AccessReason(code))
    if code in _REFUSED_FIELDS:
        return InvalidInputError(field=_REFUSED_FIELDS[code], reason=AccessReason(code))
    if code == AccessReason.WEAK_PASSWORD:
        return WeakPasswordError(reasons=tuple(getattr(error, "reasons", None) or ()))
    if code == _NO_FACTOR:
        return NotFoundError(kind="factor")
    refusal = _REFUSALS.get(code)
    return _unknown_refusal(error) if refusal is None else refusal(reason=AccessReason(code))


def _unknown_refusal(error: AuthError) -> DomainError:
    if isinstance(error, AuthSessionMissingError):
        return BadCredentialsError(reason=AccessReason.SESSION_NOT_FOUND)
    status = getattr(error, "status", 0)
    log.error("auth.refused", code=error.code, status=status, error=type(error).__name__)
    if isinstance(error, AuthRetryableError | AuthUnknownError) or not 400 <= status < 500:
        return TemporarilyUnavailableError(what="sign_in")
    if status == 401:
        return BadCredentialsError(reason=AccessReason.REFUSED)
    return NotAllowedError(reason=AccessReason.REFUSED)


def _signed_in(session: Session) -> SignedIn:
    return SignedIn(
        access_token=session.access_token,
        refresh_token=session.refresh_token,
        expires_in=session.expires_in,
        user_id=session.user.id,
    )


def _require_session(answer: AuthResponse) -> SignedIn:
    if answer.session is None:
        raise TemporarilyUnavailableError(what="sign_in")
    return _signed_in(answer.session)
