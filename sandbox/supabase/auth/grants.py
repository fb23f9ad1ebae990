"""`POST /token`: a password, a refresh token or a PKCE code for a session."""

from typing import Any
from uuid import UUID

from litestar import Response, post

from sandbox.supabase.auth import flows, passwords, requests, sessions, users
from sandbox.supabase.auth.errors import AuthError, OAuthError, invalid
from sandbox.supabase.auth.requests import AnyRequest
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.sessions import Device
from sandbox.supabase.auth.users import Row


@post("/token", status_code=200)
async def token(request: AnyRequest, auth: TheAuth) -> Response[dict[str, Any]]:
    _credentials, device = requests.check_limit(request, auth, "token")
    grant = request.query_params.get("grant_type", "")
    body = await requests.read_body(request)
    if grant == "password":
        session = await _password_grant(auth, body, device)
    elif grant == "refresh_token":
        session = await _refresh_grant(auth, body, device)
    elif grant == "pkce":
        session = await _pkce_grant(auth, body, device)
    elif grant == "id_token":
        raise AuthError(400, "provider_disabled", "Provider is not enabled")
    else:
        raise invalid("unsupported_grant_type")
    claims = auth.keys.verify_access(session["access_token"])
    return Response(
        session,
        headers={
            "sb-auth-user-id": str(claims["sub"]),
            "sb-auth-session-id": str(claims["session_id"]),
        },
    )


async def _password_grant(auth: Auth, body: dict[str, Any], device: Device) -> dict[str, Any]:
    email = requests.text(body, "email").strip().lower()
    if not email:
        raise invalid("missing email or phone")
    password = requests.text(body, "password")

    async def look_up(unit: Unit) -> Row | None:
        return await users.find_by_email(unit.conn, email)

    user = await auth.run(look_up)
    # Outside the transaction: a hash takes longer than everything else here.
    matches = await passwords.verify_password(
        password, user["encrypted_password"] if user else None
    )
    if user is None or not matches:
        raise AuthError(400, "invalid_credentials", "Invalid login credentials")
    if users.is_banned(user):
        raise AuthError(400, "user_banned", "User is banned")
    if user["email_confirmed_at"] is None:
        raise AuthError(400, "email_not_confirmed", "Email not confirmed")
    return await _sign_in(auth, user["id"], "password", device)


async def _sign_in(auth: Auth, user_id: UUID, method: str, device: Device) -> dict[str, Any]:
    async def work(unit: Unit) -> dict[str, Any]:
        return await sessions.start(auth, unit.conn, user_id, method=method, device=device)

    return await auth.run(work)


async def _refresh_grant(auth: Auth, body: dict[str, Any], device: Device) -> dict[str, Any]:
    refresh_token = requests.text(body, "refresh_token")
    if not refresh_token:
        raise OAuthError("invalid_request", "refresh_token required")

    async def work(unit: Unit) -> dict[str, Any]:
        return await sessions.refresh(auth, unit.conn, refresh_token, device)

    return await auth.run(work)


async def _pkce_grant(auth: Auth, body: dict[str, Any], device: Device) -> dict[str, Any]:
    code, verifier = requests.text(body, "auth_code"), requests.text(body, "code_verifier")
    if not code or not verifier:
        raise invalid("invalid request: both auth code and code verifier should be non-empty")

    async def work(unit: Unit) -> dict[str, Any]:
        flow = await flows.redeem(unit.conn, code, verifier)
        user = await users.get_by_id(unit.conn, flow["user_id"])
        if users.is_banned(user):
            raise AuthError(400, "user_banned", "User is banned")
        return await sessions.start(
            auth, unit.conn, user["id"], method=flow["authentication_method"], device=device
        )

    return await auth.run(work)
