"""`/user` and `/logout`: what signed-in people do with their own account."""

from datetime import timedelta
from typing import Any

from litestar import Response, delete, get, post, put
from litestar.params import FromPath
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_one
from sandbox.supabase.auth import flows, onetime, passwords, requests, sessions, users
from sandbox.supabase.auth.errors import AuthError, email_exists, invalid
from sandbox.supabase.auth.mails import AuthMail
from sandbox.supabase.auth.requests import AnyRequest, Caller
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.signup import EMPTY, Origin, send_email_change
from sandbox.supabase.auth.users import now

RECENT_LOGIN = timedelta(hours=24)


@get("/user")
async def get_user(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    credentials = requests.credentials_of(request, auth)
    claims = requests.user_claims(credentials, auth)
    device = requests.device_of(request, credentials)

    async def work(unit: Unit) -> dict[str, Any]:
        caller = await requests.load_caller(unit.conn, claims, device)
        return await users.document(unit.conn, caller.user_id)

    return await auth.run(work)


async def _has_verified_factor(conn: Connection, caller: Caller) -> bool:
    factors = await users.list_factors(conn, caller.user_id)
    return any(factor["status"] == "verified" for factor in factors)


async def _check_reauthentication(
    auth: Auth, conn: Connection, caller: Caller, body: dict[str, Any]
) -> None:
    """Raises: AuthError where the project requires more than a session to set a password."""
    config = auth.config
    if config.current_password_required and caller.user["encrypted_password"]:
        current = requests.text(body, "current_password")
        if not current:
            raise AuthError(
                400,
                "current_password_required",
                "Current password required when setting new password.",
            )
        if not await passwords.verify_password(current, caller.user["encrypted_password"]):
            message = "Current password required when setting new password."
            raise AuthError(400, "current_password_invalid", message)
    recent = now() - caller.session["created_at"] < RECENT_LOGIN
    if not config.reauthentication_required or recent:
        return
    nonce = requests.text(body, "nonce")
    if not nonce:
        raise AuthError(400, "reauthentication_needed", "Password update requires reauthentication")
    hashed = onetime.hash_code(caller.user["email"], nonce)
    found = await onetime.find(conn, hashed, ["reauthentication_token"])
    expired = onetime.is_expired(
        caller.user, "reauthentication_token", seconds=config.otp_expiry_seconds
    )
    if found is None or found["user_id"] != caller.user_id or expired:
        raise AuthError(422, "reauthentication_not_valid", "Nonce has expired or is invalid")
    await onetime.clear(conn, caller.user_id, ["reauthentication_token"])


async def _set_password(auth: Auth, conn: Connection, caller: Caller, body: dict[str, Any]) -> None:
    password = requests.text(body, "password")
    await _check_reauthentication(auth, conn, caller, body)
    passwords.check_strength(password, auth.config.password_length_min)
    if await passwords.verify_password(password, caller.user["encrypted_password"]):
        raise AuthError(
            422, "same_password", "New password should be different from the old password."
        )
    hashed = await passwords.hash_password(password, auth.config.password_cost_log2)
    await users.update(conn, caller.user_id, encrypted_password=hashed)
    await sessions.end_sessions(conn, caller.user_id, keep=caller.session_id)


async def _set_email(auth: Auth, unit: Unit, caller: Caller, email: str, origin: Origin) -> None:
    await users.lock_email(unit.conn, email)
    if await users.find_by_email(unit.conn, email) is not None:
        raise email_exists()
    if auth.config.autoconfirm:
        await users.set_email(unit.conn, caller.user, email, verified=True)
        return
    await send_email_change(auth, unit, caller.user, email, origin)


@put("/user")
async def put_user(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    credentials, device = requests.check_limit(request, auth, "otp")
    claims = requests.user_claims(credentials, auth)
    body = await requests.read_body(request)
    data = requests.mapping(body, "data")
    origin = Origin(
        redirect_to=requests.redirect_of(request, auth),
        device=device,
        challenge=flows.read_challenge(body),
    )
    email = requests.text(body, "email") and users.normalize_email(body["email"])

    async def work(unit: Unit) -> dict[str, Any]:
        conn = unit.conn
        caller = await requests.load_caller(conn, claims, device, lock=True)
        changes_email = bool(email) and email != caller.user["email"]
        if "password" in body or changes_email:
            elevated = caller.session["aal"] == "aal2"
            if not elevated and await _has_verified_factor(conn, caller):
                raise AuthError(
                    401,
                    "insufficient_aal",
                    "AAL2 session is required to update email or password when MFA is enabled.",
                )
        if body.get("password") is not None:
            await _set_password(auth, conn, caller, body)
        if data:
            metadata = users.merged(caller.user["raw_user_meta_data"], data)
            await users.update(conn, caller.user_id, raw_user_meta_data=Jsonb(metadata))
        if changes_email:
            await _set_email(auth, unit, caller, email, origin)
        return await users.document(conn, caller.user_id)

    return await auth.run(work)


@get("/reauthenticate")
async def reauthenticate(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    credentials = requests.credentials_of(request, auth)
    claims = requests.user_claims(credentials, auth)
    device = requests.device_of(request, credentials)

    async def work(unit: Unit) -> dict[str, Any]:
        caller = await requests.load_caller(unit.conn, claims, device, lock=True)
        if caller.user["email_confirmed_at"] is None:
            raise AuthError(422, "email_not_confirmed", "Please verify your email first.")
        slot: onetime.Slot = "reauthentication_token"
        onetime.check_interval(caller.user, slot, seconds=auth.config.email_interval_seconds)
        code, _hash = await onetime.put(
            unit.conn,
            caller.user_id,
            slot,
            email=caller.user["email"],
            digits=auth.config.otp_length,
        )
        unit.mails.append(
            AuthMail(
                action="reauthentication",
                user=await users.document(unit.conn, caller.user_id),
                to=caller.user["email"],
                token=code,
                token_hash="",
                redirect_to="",
                ip=device.ip,
            )
        )
        return EMPTY

    return await auth.run(work)


@post("/logout", status_code=204)
async def logout(request: AnyRequest, auth: TheAuth) -> None:
    credentials = requests.credentials_of(request, auth)
    claims = requests.user_claims(credentials, auth)
    device = requests.device_of(request, credentials)
    scope = request.query_params.get("scope") or "global"
    if scope not in {"global", "local", "others"}:
        raise invalid(f"Unsupported logout scope {scope!r}")

    async def work(unit: Unit) -> None:
        caller = await requests.load_caller(unit.conn, claims, device)
        await sessions.end_sessions(
            unit.conn,
            caller.user_id,
            only=caller.session_id if scope == "local" else None,
            keep=caller.session_id if scope == "others" else None,
        )

    await auth.run(work)


@get("/user/identities/authorize")
async def link_identity(request: AnyRequest, auth: TheAuth) -> Response[None]:
    requests.user_claims(requests.credentials_of(request, auth), auth)
    raise AuthError(404, "manual_linking_disabled", "Manual linking is disabled")


@delete("/user/identities/{identity_id:str}", status_code=200)
async def unlink_identity(
    request: AnyRequest, auth: TheAuth, identity_id: FromPath[str]
) -> dict[str, Any]:
    """Only e-mail identities exist here, one per user, and the last one cannot go."""
    credentials = requests.credentials_of(request, auth)
    claims = requests.user_claims(credentials, auth)
    device = requests.device_of(request, credentials)
    identifier = users.as_uuid(identity_id)

    async def work(unit: Unit) -> dict[str, Any]:
        caller = await requests.load_caller(unit.conn, claims, device)
        found = await fetch_one(
            unit.conn,
            "select id from auth.identities where id = %s and user_id = %s",
            (identifier, caller.user_id),
        )
        if found is None:
            raise AuthError(422, "identity_not_found", "Identity doesn't exist")
        raise AuthError(
            422,
            "single_identity_not_deletable",
            "User must have at least 1 identity after unlinking",
        )

    return await auth.run(work)
