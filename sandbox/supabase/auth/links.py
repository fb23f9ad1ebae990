"""Invitations, and links handed to the holder of the secret key instead of being mailed."""

from typing import Any
from urllib.parse import urlencode

from litestar import post

from sandbox.supabase.auth import onetime, passwords, requests, users
from sandbox.supabase.auth.errors import email_exists, invalid, user_not_found
from sandbox.supabase.auth.mails import AuthMail
from sandbox.supabase.auth.onetime import Slot
from sandbox.supabase.auth.requests import AnyRequest
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.users import Row, now

_TYPES = {
    "signup",
    "invite",
    "magiclink",
    "recovery",
    "email_change_current",
    "email_change_new",
}


async def _invited(auth: Auth, unit: Unit, email: str, metadata: dict[str, Any]) -> Row:
    """The user an invitation goes to, made if need be. Raises: AuthError 422 if confirmed."""
    await users.lock_email(unit.conn, email)
    user = await users.find_by_email(unit.conn, email, lock=True)
    if user is None:
        return await users.insert(
            unit.conn, email, password_hash=None, user_metadata=metadata, invited=True
        )
    if user["email_confirmed_at"] is not None:
        raise email_exists()
    onetime.check_interval(user, "confirmation_token", seconds=auth.config.email_interval_seconds)
    await users.update(unit.conn, user["id"], invited_at=now())
    return user


@post("/invite", status_code=200)
async def invite(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    device = requests.require_admin(request, auth)
    body = await requests.read_body(request)
    email = requests.require_email(body, "An email address is required")
    metadata = requests.mapping(body, "data")

    async def work(unit: Unit) -> dict[str, Any]:
        user = await _invited(auth, unit, email, metadata)
        code, token_hash = await onetime.put(
            unit.conn,
            user["id"],
            "confirmation_token",
            email=email,
            digits=auth.config.otp_length,
        )
        document = await users.document(unit.conn, user["id"])
        unit.mails.append(
            AuthMail(
                action="invite",
                user=document,
                to=email,
                token=code,
                token_hash=token_hash,
                redirect_to=requests.redirect_of(request, auth),
                ip=device.ip,
            )
        )
        return document

    return await auth.run(work)


async def _signup_user(
    auth: Auth, unit: Unit, email: str, password: str, metadata: dict[str, Any]
) -> Row:
    await users.lock_email(unit.conn, email)
    user = await users.find_by_email(unit.conn, email, lock=True)
    if user is not None:
        if user["email_confirmed_at"] is not None:
            raise email_exists()
        return user
    hashed = None
    if password:
        passwords.check_strength(password, auth.config.password_length_min)
        hashed = await passwords.hash_password(password, auth.config.password_cost_log2)
    return await users.insert(unit.conn, email, password_hash=hashed, user_metadata=metadata)


async def _prepare(
    auth: Auth, unit: Unit, kind: str, email: str, body: dict[str, Any]
) -> tuple[Row, Slot, str]:
    """(user, slot, verification type) of a link."""
    metadata = requests.mapping(body, "data")
    existing = await users.find_by_email(unit.conn, email, lock=True)
    if kind == "magiclink" and existing is None:
        kind = "signup"
    if kind == "signup":
        password = requests.text(body, "password")
        user = await _signup_user(auth, unit, email, password, metadata)
        return user, "confirmation_token", kind
    if kind == "invite":
        return await _invited(auth, unit, email, metadata), "confirmation_token", kind
    if existing is None:
        raise user_not_found()
    if kind in {"magiclink", "recovery"}:
        return existing, "recovery_token", kind
    new_email = users.normalize_email(body.get("new_email"))
    if await users.find_by_email(unit.conn, new_email) is not None:
        raise email_exists()
    await users.update(
        unit.conn, existing["id"], email_change=new_email, email_change_confirm_status=0
    )
    if kind == "email_change_new":
        return existing | {"email": new_email}, "email_change_token_new", kind
    return existing, "email_change_token_current", kind


@post("/admin/generate_link", status_code=200)
async def generate_link(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    requests.require_admin(request, auth)
    body = await requests.read_body(request)
    wanted = requests.text(body, "type")
    if wanted not in _TYPES:
        raise invalid(f"Invalid email action link type requested: {wanted}")
    email = requests.require_email(body, "An email address is required")
    redirect_to = requests.redirect_of(request, auth) or auth.config.site_url

    async def work(unit: Unit) -> dict[str, Any]:
        user, slot, kind = await _prepare(auth, unit, wanted, email, body)
        code, token_hash = await onetime.put(
            unit.conn, user["id"], slot, email=user["email"], digits=auth.config.otp_length
        )
        link_type = "email_change" if kind.startswith("email_change") else kind
        query = urlencode({"token": token_hash, "type": link_type, "redirect_to": redirect_to})
        return await users.document(unit.conn, user["id"]) | {
            "action_link": f"{auth.config.issuer}/verify?{query}",
            "email_otp": code,
            "hashed_token": token_hash,
            "verification_type": kind,
            "redirect_to": redirect_to,
        }

    return await auth.run(work)
