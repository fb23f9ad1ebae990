"""Sign-up, magic links, lost passwords, mails sent again."""

from typing import Any

import msgspec
from litestar import post

from sandbox.supabase.auth import flows, onetime, passwords, requests, sessions, users
from sandbox.supabase.auth.errors import AuthError, invalid
from sandbox.supabase.auth.mails import AuthMail
from sandbox.supabase.auth.onetime import Slot
from sandbox.supabase.auth.requests import AnyRequest
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.sessions import Device
from sandbox.supabase.auth.users import Row

EMPTY: dict[str, Any] = {}


class Origin(msgspec.Struct, frozen=True):
    """What a mail needs to know of the request that caused it."""

    redirect_to: str
    device: Device
    challenge: tuple[str, str] | None = None


async def send_link(
    auth: Auth, unit: Unit, user: Row, *, slot: Slot, action: str, method: str, origin: Origin
) -> None:
    """Put a new token in `slot` and mail it."""
    onetime.check_interval(user, slot, seconds=auth.config.email_interval_seconds)
    pkce = await flows.begin(unit.conn, user["id"], origin.challenge, method=method)
    code, token_hash = await onetime.put(
        unit.conn,
        user["id"],
        slot,
        email=user["email"],
        digits=auth.config.otp_length,
        pkce=pkce,
    )
    unit.mails.append(
        AuthMail(
            action=action,
            user=await users.document(unit.conn, user["id"]),
            to=user["email"],
            token=code,
            token_hash=token_hash,
            redirect_to=origin.redirect_to,
            ip=origin.device.ip,
        )
    )


async def send_confirmation(auth: Auth, unit: Unit, user: Row, origin: Origin) -> None:
    await send_link(
        auth,
        unit,
        user,
        slot="confirmation_token",
        action="signup",
        method="email/signup",
        origin=origin,
    )


def _origin(request: AnyRequest, auth: Auth, device: Device, body: dict[str, Any]) -> Origin:
    return Origin(
        redirect_to=requests.redirect_of(request, auth),
        device=device,
        challenge=flows.read_challenge(body),
    )


def _require_signup(auth: Auth) -> None:
    if not auth.config.signup_enabled:
        raise AuthError(422, "signup_disabled", "Signups not allowed for this instance")


@post("/signup", status_code=200)
async def signup(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    _credentials, device = requests.check_limit(request, auth, "otp")
    body = await requests.read_body(request)
    _require_signup(auth)
    if not requests.text(body, "email") and not requests.text(body, "password"):
        if requests.text(body, "phone"):
            raise AuthError(400, "phone_provider_disabled", "Phone signups are disabled")
        raise AuthError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
    password = requests.text(body, "password")
    if not password:
        raise invalid("Signup requires a valid password")
    email = requests.require_email(body, "To signup, please provide your email")
    passwords.check_strength(password, auth.config.password_length_min)
    password_hash = await passwords.hash_password(password, auth.config.password_cost_log2)
    metadata = requests.mapping(body, "data")
    origin = _origin(request, auth, device, body)

    async def work(unit: Unit) -> dict[str, Any]:
        await users.lock_email(unit.conn, email)
        user = await users.find_by_email(unit.conn, email, lock=True)
        if user is not None and user["email_confirmed_at"] is not None:
            if auth.config.autoconfirm:
                raise AuthError(422, "user_already_exists", "User already registered")
            return users.obfuscated(email, metadata)
        if user is None:  # a second sign-up before confirmation does not change the password
            user = await users.insert(
                unit.conn, email, password_hash=password_hash, user_metadata=metadata
            )
        if auth.config.autoconfirm:
            await users.confirm(unit.conn, user)
            return await sessions.start(
                auth, unit.conn, user["id"], method="password", device=device
            )
        await send_confirmation(auth, unit, user, origin)
        return await users.document(unit.conn, user["id"])

    return await auth.run(work)


async def _send_magiclink(auth: Auth, unit: Unit, user: Row, origin: Origin) -> None:
    await send_link(
        auth,
        unit,
        user,
        slot="recovery_token",
        action="magiclink",
        method="magiclink",
        origin=origin,
    )


async def _otp(request: AnyRequest, auth: Auth) -> dict[str, Any]:
    _credentials, device = requests.check_limit(request, auth, "otp")
    body = await requests.read_body(request)
    if requests.text(body, "phone"):
        raise AuthError(400, "phone_provider_disabled", "Unsupported phone provider")
    email = requests.require_email(body, "One of email or phone must be set")
    create = requests.flag(body, "create_user", default=True)
    metadata = requests.mapping(body, "data")
    origin = _origin(request, auth, device, body)

    async def work(unit: Unit) -> dict[str, Any]:
        await users.lock_email(unit.conn, email)
        user = await users.find_by_email(unit.conn, email, lock=True)
        if user is None:
            if not create:
                raise AuthError(422, "otp_disabled", "Signups not allowed for otp")
            _require_signup(auth)
            user = await users.insert(unit.conn, email, password_hash=None, user_metadata=metadata)
            if auth.config.autoconfirm:
                await users.confirm(unit.conn, user)
        if user["email_confirmed_at"] is None and not auth.config.autoconfirm:
            await send_confirmation(auth, unit, user, origin)
        else:
            await _send_magiclink(auth, unit, user, origin)
        return EMPTY

    return await auth.run(work)


@post("/otp", status_code=200)
async def otp(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    return await _otp(request, auth)


@post("/magiclink", status_code=200)
async def magiclink(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    return await _otp(request, auth)


@post("/recover", status_code=200)
async def recover(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    _credentials, device = requests.check_limit(request, auth, "otp")
    body = await requests.read_body(request)
    email = requests.require_email(body, "Password recovery requires an email")
    origin = _origin(request, auth, device, body)

    async def work(unit: Unit) -> dict[str, Any]:
        user = await users.find_by_email(unit.conn, email, lock=True)
        if user is not None:
            await send_link(
                auth,
                unit,
                user,
                slot="recovery_token",
                action="recovery",
                method="recovery",
                origin=origin,
            )
        return EMPTY

    return await auth.run(work)


@post("/resend", status_code=200)
async def resend(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    _credentials, device = requests.check_limit(request, auth, "otp")
    body = await requests.read_body(request)
    kind = requests.text(body, "type")
    if kind not in {"signup", "email_change"}:
        raise invalid("Missing one of these types: signup, email_change, sms, phone_change")
    email = requests.require_email(body, "Type provided requires an email address")
    origin = _origin(request, auth, device, body)

    async def work(unit: Unit) -> dict[str, Any]:
        user = await users.find_by_email(unit.conn, email, lock=True)
        if user is None:
            return EMPTY
        if kind == "signup" and user["email_confirmed_at"] is None:
            await send_confirmation(auth, unit, user, origin)
        if kind == "email_change" and user["email_change"]:
            await send_email_change(auth, unit, user, user["email_change"], origin)
        return EMPTY

    return await auth.run(work)


async def send_email_change(
    auth: Auth, unit: Unit, user: Row, new_email: str, origin: Origin
) -> None:
    """One token to the new address and, when changes are secure, one to the current address."""
    conn, user_id = unit.conn, user["id"]
    onetime.check_interval(
        user, "email_change_token_new", seconds=auth.config.email_interval_seconds
    )
    pkce = await flows.begin(conn, user_id, origin.challenge, method="email_change")
    digits = auth.config.otp_length
    code, token_hash = await onetime.put(
        conn, user_id, "email_change_token_new", email=new_email, digits=digits, pkce=pkce
    )
    current = ("", "")
    if auth.config.secure_email_change:
        current = await onetime.put(
            conn,
            user_id,
            "email_change_token_current",
            email=user["email"],
            digits=digits,
            pkce=pkce,
        )
    await users.update(conn, user_id, email_change=new_email, email_change_confirm_status=0)
    secure = bool(current[1])
    unit.mails.append(
        AuthMail(
            action="email_change",
            user=await users.document(conn, user_id),
            to=user["email"] if secure else new_email,
            token=current[0] if secure else code,
            token_hash=token_hash,
            token_new=code if secure else "",
            token_hash_new=current[1],
            new_email=new_email,
            redirect_to=origin.redirect_to,
            ip=origin.device.ip,
        )
    )
