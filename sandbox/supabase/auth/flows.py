"""PKCE: the challenge a flow began with, and the code that ends it."""

import base64
import hashlib
import hmac
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from core.db import Connection, fetch_one
from sandbox.supabase.auth.errors import AuthError, invalid
from sandbox.supabase.auth.users import Row, now

FLOW_SECONDS = 300
CHALLENGE_LENGTHS = range(43, 129)


def read_challenge(body: dict[str, Any]) -> tuple[str, str] | None:
    """(challenge, method) of a PKCE request, None of an implicit one. Raises: AuthError."""
    challenge, method = body.get("code_challenge") or "", body.get("code_challenge_method") or ""
    if not challenge and not method:
        return None
    if not challenge or not method:
        raise invalid("PKCE flow requires code_challenge_method and code_challenge parameters")
    if str(method).lower() not in {"s256", "plain"}:
        raise invalid("code challenge method not supported")
    if len(str(challenge)) not in CHALLENGE_LENGTHS:
        raise invalid("code challenge has to be between 43 and 128 characters")
    return str(challenge), str(method).lower()


async def begin(
    conn: Connection, user_id: UUID, challenge: tuple[str, str] | None, *, method: str
) -> bool:
    """Stores the challenge; True when the flow is PKCE, and its mail carries the prefix."""
    if challenge is None:
        return False
    await conn.execute(
        "insert into auth.flow_state (id, user_id, auth_code, code_challenge_method,"
        " code_challenge, provider_type, authentication_method, created_at, updated_at)"
        " values (%s, %s, %s, %s, %s, 'email', %s, now(), now())",
        (uuid4(), user_id, str(uuid4()), challenge[1], challenge[0], method),
    )
    return True


async def issue_code(conn: Connection, user_id: UUID, method: str) -> str:
    """The code of the user's latest flow of that kind. Raises: AuthError 404."""
    row = await fetch_one(
        conn,
        "update auth.flow_state set auth_code_issued_at = now(), updated_at = now()"
        " where id = (select id from auth.flow_state"
        " where user_id = %s and authentication_method = %s order by created_at desc limit 1)"
        " returning auth_code",
        (user_id, method),
    )
    if row is None:
        raise flow_not_found()
    return str(row["auth_code"])


def flow_not_found() -> AuthError:
    message = "invalid flow state, no valid flow state found"
    return AuthError(404, "flow_state_not_found", message)


async def redeem(conn: Connection, code: str, verifier: str) -> Row:
    """The flow, used up. Raises: AuthError."""
    row = await fetch_one(
        conn,
        "select id, user_id, code_challenge, code_challenge_method::text as challenge_method,"
        " authentication_method, coalesce(auth_code_issued_at, created_at) as issued_at"
        " from auth.flow_state where auth_code = %s for update",
        (code,),
    )
    if row is None or row["user_id"] is None:
        raise flow_not_found()
    if row["issued_at"] + timedelta(seconds=FLOW_SECONDS) < now():
        raise AuthError(422, "flow_state_expired", "invalid flow state, flow state has expired")
    given = verifier
    if row["challenge_method"] == "s256":
        digest = hashlib.sha256(verifier.encode()).digest()
        given = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    if not hmac.compare_digest(given, row["code_challenge"]):
        message = "code challenge does not match previously saved code verifier"
        raise AuthError(400, "bad_code_verifier", message)
    await conn.execute("delete from auth.flow_state where id = %s", (row["id"],))
    return row
