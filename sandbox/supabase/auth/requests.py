"""From a request to what the server makes of it: body, caller, device, redirect target."""

import re
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Request

from core.db import Connection
from sandbox.supabase.auth import sessions, users
from sandbox.supabase.auth.errors import AuthError, invalid
from sandbox.supabase.auth.limits import Group
from sandbox.supabase.auth.service import Auth
from sandbox.supabase.auth.sessions import Device
from sandbox.supabase.auth.users import Row
from sandbox.supabase.gateway import Credentials, GatewayError, read_credentials
from sandbox.supabase.keystore import TokenError

AnyRequest = Request[Any, Any, Any]

BODY_BYTES_MAX = 1024 * 1024
_BAD_JWT = "invalid JWT: unable to parse or verify signature, "
_JWT_PROBLEMS = {
    "malformed": "token is malformed",
    "expired": "token has invalid claims: token is expired",
    "signature": "token signature is invalid",
}


def headers_of(request: AnyRequest) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def credentials_of(request: AnyRequest, auth: Auth) -> Credentials:
    """Raises: GatewayError without a known API key."""
    found = read_credentials(headers_of(request), auth.config, auth.keys)
    if found.key_role is None:
        raise GatewayError(
            "No API key found in request", "No `apikey` request header or url param was found."
        )
    return found


def device_of(request: AnyRequest, credentials: Credentials) -> Device:
    """With a secret key the caller may name the address that it forwards (`Sb-Forwarded-For`)."""
    forwarded = request.headers.get("sb-forwarded-for")
    ip = request.client.host if request.client else "127.0.0.1"
    if forwarded and credentials.is_secret:
        ip = forwarded.split(",")[0].strip()
    return Device(ip=ip, user_agent=request.headers.get("user-agent", ""))


def check_limit(request: AnyRequest, auth: Auth, group: Group) -> tuple[Credentials, Device]:
    credentials = credentials_of(request, auth)
    device = device_of(request, credentials)
    route = "mfa" if group == "mfa" else request.url.path
    auth.limiter.check(group, route, device.ip)
    return credentials, device


def _bad_json(reason: str) -> NoReturn:
    raise AuthError(400, "bad_json", f"Could not parse request body as JSON: {reason}")


async def read_body(request: AnyRequest) -> dict[str, Any]:
    """The JSON object of the body, `{}` when there is none. Raises: AuthError."""
    raw = await request.body()
    if len(raw) > BODY_BYTES_MAX:
        raise AuthError(413, "request_entity_too_large", "Request body is too large")
    if not raw:
        return {}
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _bad_json(str(error))
    if not isinstance(body, dict):
        _bad_json("expected an object")
    return body


def text(body: dict[str, Any], name: str) -> str:
    """A string field, "" when missing or null. Raises: AuthError for another type."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        _bad_json(f"field {name} must be a string")
    return value


def mapping(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        _bad_json(f"field {name} must be an object")
    return value


def flag(body: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        _bad_json(f"field {name} must be a boolean")
    return value


def _glob(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": "[^./]*", "?": "[^./]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))


def is_allowed_redirect(url: str, auth: Auth) -> bool:
    target = urlsplit(url)
    if target.scheme in {"http", "https"} and target.hostname is not None:
        same_host = target.hostname == urlsplit(auth.config.site_url).hostname
        if same_host:
            return True
    return any(_glob(pattern).fullmatch(url) for pattern in auth.config.redirect_allow_list)


def redirect_of(request: AnyRequest, auth: Auth) -> str:
    """The `redirect_to` of the query where it is allowed, otherwise silently SITE_URL; "" if none
    was given.
    """
    wanted = request.query_params.get("redirect_to") or request.headers.get("redirect_to") or ""
    if not wanted:
        return ""
    return wanted if is_allowed_redirect(wanted, auth) else auth.config.site_url


class Caller(msgspec.Struct, frozen=True):
    """A signed-in user whose session still exists."""

    user: Row
    session: Row
    device: Device

    @property
    def user_id(self) -> UUID:
        value: UUID = self.user["id"]
        return value

    @property
    def session_id(self) -> UUID:
        value: UUID = self.session["id"]
        return value


def user_claims(credentials: Credentials, auth: Auth) -> dict[str, Any]:
    """The verified claims of the bearer token. Raises: AuthError."""
    if not credentials.has_bearer:
        raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    if credentials.token is None:  # the API key itself: a role without a person
        raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
    try:
        claims = auth.keys.verify_access(credentials.token)
    except TokenError as error:
        raise AuthError(403, "bad_jwt", _BAD_JWT + _JWT_PROBLEMS[error.kind]) from error
    if not claims.get("sub"):
        raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
    return claims


async def load_caller(
    conn: Connection, claims: dict[str, Any], device: Device, *, lock: bool = False
) -> Caller:
    """Raises: AuthError 403 for a user or session that was deleted, though the token verifies."""
    try:
        user_id, session_id = UUID(str(claims["sub"])), UUID(str(claims.get("session_id")))
    except ValueError as error:
        raise AuthError(403, "bad_jwt", "invalid claim: sub claim must be a UUID") from error
    user = await users.find_by_id(conn, user_id, lock=lock)
    if user is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    if users.is_banned(user):
        raise AuthError(403, "user_banned", "User is banned")
    session = await sessions.find_session(conn, session_id)
    if session is None or session["user_id"] != user_id:
        raise AuthError(
            403, "session_not_found", "Session from session_id claim in JWT does not exist"
        )
    return Caller(user=user, session=session, device=device)


def require_admin(request: AnyRequest, auth: Auth) -> Device:
    """Raises: AuthError unless the request runs as service_role."""
    credentials = credentials_of(request, auth)
    role = credentials.key_role
    if credentials.token is not None:
        role = user_claims_role(credentials, auth)
    if role != "service_role":
        raise AuthError(403, "not_admin", "User not allowed")
    return device_of(request, credentials)


def user_claims_role(credentials: Credentials, auth: Auth) -> str:
    assert credentials.token is not None
    try:
        return str(auth.keys.verify_access(credentials.token).get("role", ""))
    except TokenError as error:
        raise AuthError(403, "bad_jwt", _BAD_JWT + _JWT_PROBLEMS[error.kind]) from error


def require_email(body: dict[str, Any], message: str) -> str:
    """A normalised address. Raises: AuthError with `message` when there is none."""
    if not text(body, "email"):
        raise invalid(message)
    return users.normalize_email(text(body, "email"))
