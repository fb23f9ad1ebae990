"""Second factors: time-based one-time passwords (RFC 6238: SHA-1, 6 digits, 30 s, one step off)."""

import base64
import hashlib
import hmac
import secrets
import time
from datetime import timedelta
from html import escape
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID, uuid4

from litestar import delete, post
from litestar.params import FromPath

from core.db import Connection, fetch_one
from sandbox.supabase.auth import requests, sessions, users
from sandbox.supabase.auth.errors import AuthError, invalid
from sandbox.supabase.auth.requests import AnyRequest, Caller
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.users import Row, now

STEP_SECONDS = 30
CHALLENGE_SECONDS = 300
FACTORS_MAX = 10


def totp(secret: str, *, at: float | None = None) -> str:
    """The code that an authenticator shows for a base32 secret."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    step = int((time.time() if at is None else at) // STEP_SECONDS)
    digest = hmac.new(key, step.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06d}"


def _code_matches(secret: str, code: str) -> bool:
    at = time.time()
    steps = (at - STEP_SECONDS, at, at + STEP_SECONDS)
    return any(hmac.compare_digest(totp(secret, at=step).encode(), code.encode()) for step in steps)


def parse_factor_id(value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError as error:
        raise AuthError(404, "validation_failed", "factor_id must be an UUID") from error


async def _find_factor(conn: Connection, caller: Caller, factor_id: UUID) -> Row:
    factors = await users.list_factors(conn, caller.user_id)
    for factor in factors:
        if factor["id"] == factor_id:
            return factor
    raise AuthError(404, "mfa_factor_not_found", "Factor not found")


def _check_enrolment(factors: list[Row], caller: Caller, friendly_name: str) -> None:
    if len(factors) >= FACTORS_MAX:
        raise AuthError(
            422,
            "too_many_enrolled_mfa_factors",
            "Maximum number of verified factors reached, unenroll to continue",
        )
    if friendly_name and any(factor["friendly_name"] == friendly_name for factor in factors):
        raise AuthError(
            422,
            "mfa_factor_name_conflict",
            f'A factor with the friendly name "{friendly_name}" for this user already exists',
        )
    verified = any(factor["status"] == "verified" for factor in factors)
    if verified and caller.session["aal"] != "aal2":
        raise AuthError(403, "insufficient_aal", "AAL2 required to enroll a new factor")


def _enrolment(factor_id: UUID, friendly_name: str, account: str, issuer: str, secret: str) -> Any:
    query = {
        "algorithm": "SHA1",
        "digits": "6",
        "issuer": issuer,
        "period": str(STEP_SECONDS),
        "secret": secret,
    }
    uri = f"otpauth://totp/{quote(f'{issuer}:{account}')}?{urlencode(query)}"
    # A picture of the secret, not a QR code: what matters to clients is that it is an SVG.
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 40">'
        f'<text x="8" y="24" font-size="9">{escape(secret)}</text></svg>'
    )
    return {
        "id": str(factor_id),
        "type": "totp",
        "friendly_name": friendly_name,
        "totp": {"qr_code": picture, "secret": secret, "uri": uri},
    }


@post("/factors", status_code=200)
async def enroll(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    credentials = requests.credentials_of(request, auth)
    claims = requests.user_claims(credentials, auth)
    device = requests.device_of(request, credentials)
    body = await requests.read_body(request)
    if requests.text(body, "factor_type") != "totp":
        raise invalid("factor_type needs to be totp, phone, or webauthn")
    if not auth.config.totp_enabled:
        raise AuthError(422, "mfa_totp_enroll_not_enabled", "MFA enroll is disabled for TOTP")
    friendly_name = requests.text(body, "friendly_name").strip()
    issuer = requests.text(body, "issuer") or urlsplit(auth.config.site_url).netloc
    secret = base64.b32encode(secrets.token_bytes(20)).decode()
    factor_id = uuid4()

    async def work(unit: Unit) -> Any:
        caller = await requests.load_caller(unit.conn, claims, device, lock=True)
        factors = await users.list_factors(unit.conn, caller.user_id)
        _check_enrolment(factors, caller, friendly_name)
        await unit.conn.execute(
            "insert into auth.mfa_factors"
            " (id, user_id, friendly_name, factor_type, status, created_at, updated_at, secret)"
            " values (%s, %s, %s, 'totp', 'unverified', now(), now(), %s)",
            (factor_id, caller.user_id, friendly_name, secret),
        )
        return _enrolment(factor_id, friendly_name, caller.user["email"], issuer, secret)

    answer: dict[str, Any] = await auth.run(work)
    return answer


@post("/factors/{factor_id:str}/challenge", status_code=200)
async def challenge(request: AnyRequest, auth: TheAuth, factor_id: FromPath[str]) -> dict[str, Any]:
    credentials, device = requests.check_limit(request, auth, "mfa")
    claims = requests.user_claims(credentials, auth)
    identifier, challenge_id = parse_factor_id(factor_id), uuid4()

    async def work(unit: Unit) -> dict[str, Any]:
        caller = await requests.load_caller(unit.conn, claims, device)
        await _find_factor(unit.conn, caller, identifier)
        await unit.conn.execute(
            "insert into auth.mfa_challenges (id, factor_id, created_at, ip_address)"
            " values (%s, %s, now(), %s)",
            (challenge_id, identifier, device.ip),
        )
        await unit.conn.execute(
            "update auth.mfa_factors set last_challenged_at = clock_timestamp() where id = %s",
            (identifier,),
        )
        expires_at = int(time.time()) + CHALLENGE_SECONDS
        return {"id": str(challenge_id), "type": "totp", "expires_at": expires_at}

    return await auth.run(work)


async def _check_challenge(conn: Connection, factor: Row, challenge_id: str, ip: str) -> UUID:
    """Raises: AuthError. The row stays locked, so that a challenge is answered once."""
    row = None
    if challenge_id.count("-") == 4:
        row = await fetch_one(
            conn,
            "select id, created_at, verified_at, host(ip_address) as ip from auth.mfa_challenges"
            " where id::text = %s and factor_id = %s for update",
            (challenge_id.lower(), factor["id"]),
        )
    if row is None:
        raise AuthError(
            422,
            "mfa_factor_not_found",
            "MFA factor with the provided challenge ID not found",
        )
    if row["verified_at"] is not None or row["ip"] != ip:
        raise AuthError(
            422, "mfa_ip_address_mismatch", "Challenge and verify IP addresses mismatch."
        )
    if row["created_at"] + timedelta(seconds=CHALLENGE_SECONDS) < now():
        raise AuthError(
            422,
            "mfa_challenge_expired",
            f"MFA challenge {challenge_id} has expired, verify against another challenge"
            " or create a new challenge.",
        )
    identifier: UUID = row["id"]
    return identifier


@post("/factors/{factor_id:str}/verify", status_code=200)
async def verify(request: AnyRequest, auth: TheAuth, factor_id: FromPath[str]) -> dict[str, Any]:
    credentials, device = requests.check_limit(request, auth, "mfa")
    claims = requests.user_claims(credentials, auth)
    body = await requests.read_body(request)
    challenge_id, code = requests.text(body, "challenge_id"), requests.text(body, "code")
    identifier = parse_factor_id(factor_id)

    async def work(unit: Unit) -> dict[str, Any]:
        conn = unit.conn
        caller = await requests.load_caller(conn, claims, device, lock=True)
        factor = await _find_factor(conn, caller, identifier)
        found = await _check_challenge(conn, factor, challenge_id, device.ip)
        if not _code_matches(factor["secret"], code):
            raise AuthError(422, "mfa_verification_failed", "Invalid TOTP code entered")
        await conn.execute(
            "update auth.mfa_challenges set verified_at = now() where id = %s", (found,)
        )
        return await _elevate(auth, conn, caller, identifier)

    return await auth.run(work)


async def _elevate(auth: Auth, conn: Connection, caller: Caller, factor_id: UUID) -> dict[str, Any]:
    """The same session at aal2; the user's weaker sessions and unverified factors go."""
    await conn.execute(
        "update auth.mfa_factors set status = 'verified', updated_at = now() where id = %s",
        (factor_id,),
    )
    await conn.execute(
        "delete from auth.mfa_factors"
        " where user_id = %s and status = 'unverified' and factor_type = 'totp'",
        (caller.user_id,),
    )
    await conn.execute(
        "update auth.sessions set aal = 'aal2', factor_id = %s, updated_at = now() where id = %s",
        (factor_id, caller.session_id),
    )
    await sessions.add_method(conn, caller.session_id, "totp")
    await conn.execute(
        "delete from auth.sessions where user_id = %s and coalesce(aal, 'aal1') < 'aal2'",
        (caller.user_id,),
    )
    token = await sessions.swap_active_refresh(conn, caller.session)
    return await sessions.answer(auth, conn, caller.session_id, token)


async def remove(conn: Connection, factor: Row) -> None:
    """The sessions that it had lifted fall back to aal1."""
    await conn.execute(
        "delete from auth.mfa_amr_claims where authentication_method = 'totp'"
        " and session_id in (select id from auth.sessions where factor_id = %s)",
        (factor["id"],),
    )
    await conn.execute(
        "update auth.sessions set aal = 'aal1', factor_id = null, updated_at = now()"
        " where factor_id = %s",
        (factor["id"],),
    )
    await conn.execute("delete from auth.mfa_factors where id = %s", (factor["id"],))


@delete("/factors/{factor_id:str}", status_code=200)
async def unenroll(request: AnyRequest, auth: TheAuth, factor_id: FromPath[str]) -> dict[str, Any]:
    credentials = requests.credentials_of(request, auth)
    claims = requests.user_claims(credentials, auth)
    device = requests.device_of(request, credentials)
    identifier = parse_factor_id(factor_id)

    async def work(unit: Unit) -> dict[str, Any]:
        caller = await requests.load_caller(unit.conn, claims, device, lock=True)
        factor = await _find_factor(unit.conn, caller, identifier)
        if factor["status"] == "verified" and caller.session["aal"] != "aal2":
            raise AuthError(422, "insufficient_aal", "AAL2 required to unenroll verified factor")
        await remove(unit.conn, factor)
        return {"id": str(identifier)}

    return await auth.run(work)
