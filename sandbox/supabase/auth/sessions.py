"""Sessions, access tokens and the rotation of refresh tokens."""

import secrets
import string
import time
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from core.db import Connection, fetch_all, fetch_one
from sandbox.supabase.auth import users
from sandbox.supabase.auth.errors import AuthError, KeptError
from sandbox.supabase.auth.service import Auth
from sandbox.supabase.auth.users import Row, now

_TOKEN_CHARACTERS = string.ascii_lowercase + string.digits
_SESSION = "select id, user_id, aal, factor_id, not_after, created_at from auth.sessions"


class Device(msgspec.Struct, frozen=True):
    """Where a request came from, as stored with a session."""

    ip: str
    user_agent: str


async def find_session(
    conn: Connection, session_id: UUID | str, *, lock: bool = False
) -> Row | None:
    query = _SESSION + " where id = %s" + (" for update" if lock else "")
    return await fetch_one(conn, query, (session_id,))


async def add_method(conn: Connection, session_id: UUID, method: str) -> None:
    await conn.execute(
        "insert into auth.mfa_amr_claims"
        " (id, session_id, created_at, updated_at, authentication_method)"
        " values (%s, %s, now(), now(), %s)"
        " on conflict (session_id, authentication_method) do update set updated_at = now()",
        (uuid4(), session_id, method),
    )


async def _issue_refresh(
    conn: Connection, *, user_id: UUID, session_id: UUID, parent: str | None
) -> str:
    token = "".join(secrets.choice(_TOKEN_CHARACTERS) for _ in range(12))
    await conn.execute(
        "insert into auth.refresh_tokens"
        " (instance_id, token, user_id, revoked, parent, session_id, created_at, updated_at)"
        " values ('00000000-0000-0000-0000-000000000000', %s, %s, false, %s, %s,"
        " clock_timestamp(), clock_timestamp())",
        (token, str(user_id), parent, session_id),
    )
    return token


async def _active_refresh(conn: Connection, session_id: UUID) -> Row | None:
    return await fetch_one(
        conn,
        "select token, parent from auth.refresh_tokens"
        " where session_id = %s and revoked = false order by id desc limit 1",
        (session_id,),
    )


async def swap_refresh(conn: Connection, session: Row, parent: str) -> str:
    """Revoke `parent` and issue its child."""
    await conn.execute(
        "update auth.refresh_tokens set revoked = true, updated_at = clock_timestamp()"
        " where token = %s and session_id = %s",
        (parent, session["id"]),
    )
    return await _issue_refresh(
        conn, user_id=session["user_id"], session_id=session["id"], parent=parent
    )


async def swap_active_refresh(conn: Connection, session: Row) -> str:
    active = await _active_refresh(conn, session["id"])
    if active is None:
        return await _issue_refresh(
            conn, user_id=session["user_id"], session_id=session["id"], parent=None
        )
    return await swap_refresh(conn, session, str(active["token"]))


async def answer(
    auth: Auth, conn: Connection, session_id: UUID, refresh_token: str
) -> dict[str, Any]:
    """The session as JSON, with a fresh access token and the complete user."""
    session = await find_session(conn, session_id)
    assert session is not None
    methods = await fetch_all(
        conn,
        "select authentication_method as method,"
        " extract(epoch from updated_at)::bigint as timestamp"
        " from auth.mfa_amr_claims where session_id = %s order by updated_at desc",
        (session_id,),
    )
    user = await users.document(conn, session["user_id"])
    issued_at = int(time.time())
    expires_at = issued_at + auth.config.jwt_expiry_seconds
    claims = {
        "iss": auth.config.issuer,
        "sub": user["id"],
        "aud": user["aud"],
        "exp": expires_at,
        "iat": issued_at,
        "email": user["email"],
        "phone": user["phone"],
        "app_metadata": user["app_metadata"],
        "user_metadata": user["user_metadata"],
        "role": user["role"],
        "aal": session["aal"],
        "amr": methods,
        "session_id": str(session_id),
        "is_anonymous": user["is_anonymous"],
    }
    return {
        "access_token": auth.keys.sign_access(claims),
        "token_type": "bearer",
        "expires_in": auth.config.jwt_expiry_seconds,
        "expires_at": expires_at,
        "refresh_token": refresh_token,
        "user": user,
    }


async def start(
    auth: Auth, conn: Connection, user_id: UUID, *, method: str, device: Device
) -> dict[str, Any]:
    """Sign a user in: a new session at aal1."""
    session_id = uuid4()
    await conn.execute(
        "insert into auth.sessions (id, user_id, created_at, updated_at, aal, user_agent, ip)"
        " values (%s, %s, now(), now(), 'aal1', %s, %s)",
        (session_id, user_id, device.user_agent, device.ip),
    )
    await add_method(conn, session_id, method)
    await conn.execute(
        "update auth.users set last_sign_in_at = now(), updated_at = now() where id = %s",
        (user_id,),
    )
    await conn.execute(
        "update auth.identities set last_sign_in_at = now(), updated_at = now()"
        " where user_id = %s and provider = 'email'",
        (user_id,),
    )
    token = await _issue_refresh(conn, user_id=user_id, session_id=session_id, parent=None)
    return await answer(auth, conn, session_id, token)


def _refused(code: str, message: str) -> AuthError:
    return AuthError(400, code, f"Invalid Refresh Token: {message}")


async def refresh(auth: Auth, conn: Connection, token: str, device: Device) -> dict[str, Any]:
    """Rotate. A revoked token is taken again within the reuse interval, or when it is the parent
    of the active one; any other reuse is taken for theft and ends the session.
    """
    found = await _find_refresh(conn, token)
    if found is None:
        raise _refused("refresh_token_not_found", "Refresh Token Not Found")
    session = await find_session(conn, found["session_id"], lock=True)
    if session is None:
        raise _refused("session_not_found", "Session Not Found")
    if session["not_after"] is not None and session["not_after"] < now():
        raise _refused("session_expired", "Session Expired")
    user = await users.find_by_id(conn, session["user_id"])
    if user is not None and users.is_banned(user):
        raise AuthError(400, "user_banned", "Invalid Refresh Token: User Banned")
    found = await _find_refresh(conn, token)  # again: it may have been rotated while we waited
    assert found is not None
    issued: str | None = None
    if found["revoked"]:
        issued = await _reuse(auth, conn, session, found)
    if issued is None:
        issued = await swap_refresh(conn, session, token)
    await conn.execute(
        "update auth.sessions set refreshed_at = now() at time zone 'utc', updated_at = now(),"
        " user_agent = %s, ip = %s where id = %s",
        (device.user_agent, device.ip, session["id"]),
    )
    return await answer(auth, conn, session["id"], issued)


async def _find_refresh(conn: Connection, token: str) -> Row | None:
    return await fetch_one(
        conn,
        "select token, revoked, updated_at, session_id from auth.refresh_tokens where token = %s",
        (token,),
    )


async def _reuse(auth: Auth, conn: Connection, session: Row, found: Row) -> str | None:
    """The token to answer with, or None to issue a new one. Raises: KeptError for theft."""
    active = await _active_refresh(conn, session["id"])
    if active is not None and active["parent"] == found["token"]:
        return str(active["token"])
    reusable_until = found["updated_at"] + timedelta(seconds=auth.config.refresh_reuse_seconds)
    if now() <= reusable_until:
        return None
    await conn.execute("delete from auth.sessions where id = %s", (session["id"],))
    raise KeptError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")


async def end_sessions(
    conn: Connection, user_id: UUID, *, only: UUID | None = None, keep: UUID | None = None
) -> None:
    await conn.execute(
        "delete from auth.sessions where user_id = %(user)s"
        " and (%(only)s::uuid is null or id = %(only)s)"
        " and (%(keep)s::uuid is null or id <> %(keep)s)",
        {"user": user_id, "only": only, "keep": keep},
    )
