"""`/verify`: a mailed link or code becomes a session, once."""

import secrets
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import msgspec
from litestar import Response, get, post

from core.db import Connection, fetch_one
from sandbox.supabase.auth import flows, onetime, passwords, requests, sessions, users
from sandbox.supabase.auth.errors import AuthError, invalid
from sandbox.supabase.auth.requests import AnyRequest
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.users import Row, now

FIRST_OF_TWO = "Confirmation link accepted. Please proceed to confirm link sent to the other email"
_FLOW_METHODS = {"signup": "email/signup", "email_change": "email_change"}


class Verified(msgspec.Struct, frozen=True):
    """`half` is the first of the two confirmations of a secure e-mail change: no session."""

    user_id: UUID
    kind: str
    half: bool = False


def _expired(kind: Literal["link", "code"]) -> AuthError:
    message = {
        "link": "Email link is invalid or has expired",
        "code": "Token has expired or is invalid",
    }
    return AuthError(403, "otp_expired", message[kind])


def _slots(kind: str) -> tuple[onetime.Slot, ...]:
    slots = onetime.SLOTS_OF_TYPE.get(kind)
    if slots is None:
        raise invalid("Invalid email verification type")
    return slots


async def consume(
    auth: Auth, conn: Connection, token_hash: str, kind: str, *, form: Literal["link", "code"]
) -> Verified:
    """Use the token up and do what it confirms. Raises: AuthError."""
    found = await onetime.find(conn, token_hash, _slots(kind))
    if found is None:
        raise _expired(form)
    user = await users.get_by_id(conn, found["user_id"])
    if users.is_banned(user):
        raise AuthError(403, "user_banned", "User is banned")
    if onetime.is_expired(user, found["slot"], seconds=auth.config.otp_expiry_seconds):
        raise _expired(form)
    if kind == "email_change":
        return await _confirm_email_change(auth, conn, user, found)
    if found["slot"] == "confirmation_token":
        if user["encrypted_password"] is None and user["invited_at"] is not None:
            random = await passwords.hash_password(secrets.token_urlsafe(24), 10)
            await users.update(conn, user["id"], encrypted_password=random)
        await users.confirm(conn, user)
    else:
        await onetime.clear(conn, user["id"], ["recovery_token", "confirmation_token"])
        if user["email_confirmed_at"] is None:
            await users.confirm(conn, user)
    if kind == "email":
        kind = "signup" if found["slot"] == "confirmation_token" else "magiclink"
    return Verified(user_id=user["id"], kind=kind)


async def _confirm_email_change(auth: Auth, conn: Connection, user: Row, found: Row) -> Verified:
    half = auth.config.secure_email_change and user["email_change_confirm_status"] == 0
    if half:
        await onetime.clear(conn, user["id"], [found["slot"]])
        await users.update(conn, user["id"], email_change_confirm_status=1)
        return Verified(user_id=user["id"], kind="email_change", half=True)
    slots = onetime.SLOTS_OF_TYPE["email_change"]
    await onetime.clear(conn, user["id"], slots)
    if await users.find_by_email(conn, user["email_change"]) is not None:
        raise AuthError(422, "email_exists", "A user with this email address has already been"
                        " registered")  # fmt: skip
    await users.set_email(conn, user, user["email_change"], verified=True)
    await users.update(
        conn,
        user["id"],
        email_change="",
        email_change_confirm_status=0,
        email_confirmed_at=user["email_confirmed_at"] or now(),
    )
    return Verified(user_id=user["id"], kind="email_change")


async def _code_hash(conn: Connection, kind: str, email: str, code: str) -> str:
    """The hash that a code stands for: of the address it was sent to."""
    if kind == "email_change":
        row = await fetch_one(
            conn,
            "select email from auth.users where email = %(email)s or email_change = %(email)s",
            {"email": email},
        )
    else:
        row = await users.find_by_email(conn, email)
    if row is None:
        raise _expired("code")
    return onetime.hash_code(email, code)


@post("/verify", status_code=200)
async def verify_post(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    _credentials, device = requests.check_limit(request, auth, "verify")
    body = await requests.read_body(request)
    kind, token_hash = requests.text(body, "type"), requests.text(body, "token_hash")
    if not kind:
        raise invalid("Verify requires a verification type")
    others = [requests.text(body, name) for name in ("email", "phone", "redirect_to", "token")]
    if token_hash and any(others):
        raise invalid("Only the token_hash and type should be provided")
    code = requests.text(body, "token")
    if not token_hash and not code:
        raise invalid("Verify requires a token or a token hash")

    async def work(unit: Unit) -> dict[str, Any]:
        if token_hash:
            verified = await consume(auth, unit.conn, token_hash, kind, form="link")
        else:
            _slots(kind)
            email = requests.require_email(body, "Only an email address or phone number should"
                                           " be provided on verify")  # fmt: skip
            hashed = await _code_hash(unit.conn, kind, email, code)
            verified = await consume(auth, unit.conn, hashed, kind, form="code")
        if verified.half:
            return {"msg": FIRST_OF_TWO, "code": "200"}
        return await sessions.start(auth, unit.conn, verified.user_id, method="otp", device=device)

    return await auth.run(work)


def _redirect(target: str, fragment: dict[str, Any], query: dict[str, Any]) -> Response[None]:
    parts = urlsplit(target)
    url = parts._replace(
        query="&".join(part for part in (parts.query, urlencode(query)) if part),
        fragment=urlencode(fragment),
    ).geturl()
    return Response(None, status_code=303, headers={"location": url}, media_type="text/html")


@get("/verify")
async def verify_get(request: AnyRequest, auth: TheAuth) -> Response[None]:
    """The link of the platform's own mails. It is followed by browsers, so it needs no API key."""
    given = request.query_params.get("token") or request.query_params.get("token_hash") or ""
    kind = request.query_params.get("type", "")
    target = requests.redirect_of(request, auth) or auth.config.site_url
    device = sessions.Device(
        ip=request.client.host if request.client else "127.0.0.1",
        user_agent=request.headers.get("user-agent", ""),
    )
    auth.limiter.check("verify", request.url.path, device.ip)
    pkce = given.startswith(onetime.PKCE_PREFIX)

    async def work(unit: Unit) -> dict[str, Any]:
        verified = await consume(auth, unit.conn, given, kind, form="link")
        if verified.half:
            return {"message": FIRST_OF_TWO, "sb": ""}
        if pkce:
            method = _FLOW_METHODS.get(verified.kind, verified.kind)
            return {"code": await flows.issue_code(unit.conn, verified.user_id, method)}
        session = await sessions.start(
            auth, unit.conn, verified.user_id, method="otp", device=device
        )
        shown = ("access_token", "expires_at", "expires_in", "refresh_token", "token_type")
        return {name: session[name] for name in shown} | {"sb": "", "type": verified.kind}

    try:
        answered = await auth.run(work)
    except AuthError as error:
        if error.code == "validation_failed":
            raise
        failure = {
            "error": "access_denied",
            "error_code": error.code,
            "error_description": error.message,
        }
        return _redirect(target, failure | {"sb": ""}, failure if pkce else {})
    if "code" in answered:
        return _redirect(target, {}, answered)
    return _redirect(target, answered, {})
