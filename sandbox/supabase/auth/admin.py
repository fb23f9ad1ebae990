"""`/admin/users`: accounts as the holder of the secret key sees and changes them."""

import math
import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from litestar import Response, delete, get, post, put
from litestar.params import FromPath
from psycopg.types.json import Jsonb

from core.db import Connection
from sandbox.supabase.auth import factors, passwords, requests, sessions, users
from sandbox.supabase.auth.errors import (
    AuthError,
    email_exists,
    invalid,
    user_not_found,
)
from sandbox.supabase.auth.requests import AnyRequest
from sandbox.supabase.auth.service import Auth, TheAuth, Unit
from sandbox.supabase.auth.users import Row, now

PAGE_SIZE = 50
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")


def parse_duration(value: str) -> timedelta:
    """A Go duration such as `24h` or `1h30m`. Raises: AuthError."""
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise invalid(f'invalid format for ban duration: time: invalid duration "{value}"')
    return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _banned_until(body: dict[str, Any]) -> datetime | None:
    duration = requests.text(body, "ban_duration")
    return None if duration in {"", "none"} else now() + parse_duration(duration)


def _positive(value: str | None, default: int) -> int:
    """The client sends empty strings for what it leaves out. Raises: AuthError."""
    if not value:
        return default
    if not value.isdigit() or int(value) < 1:
        raise invalid("Bad Pagination Parameters")
    return int(value)


def _page_links(url: str, page: int, pages: int, per_page: int) -> str:
    links = []
    if page < pages:
        links.append(f'<{url}?page={page + 1}&per_page={per_page}>; rel="next"')
    links.append(f'<{url}?page={max(pages, 1)}&per_page={per_page}>; rel="last"')
    return ", ".join(links)


@get("/admin/users")
async def list_users(request: AnyRequest, auth: TheAuth) -> Response[dict[str, Any]]:
    requests.require_admin(request, auth)
    page = _positive(request.query_params.get("page"), 1)
    per_page = _positive(request.query_params.get("per_page"), PAGE_SIZE)
    containing = request.query_params.get("filter") or ""

    async def work(unit: Unit) -> tuple[list[dict[str, Any]], int]:
        rows, total = await users.list_page(
            unit.conn, limit=per_page, offset=(page - 1) * per_page, containing=containing
        )
        return [await users.document(unit.conn, row["id"]) for row in rows], total

    found, total = await auth.run(work)
    url = f"{auth.config.issuer}/admin/users"
    headers = {
        "X-Total-Count": str(total),
        "Link": _page_links(url, page, math.ceil(total / per_page), per_page),
    }
    return Response({"users": found, "aud": "authenticated"}, headers=headers)


async def load_user(conn: Connection, user_id: UUID) -> Row:
    row = await users.find_by_id(conn, user_id, lock=True)
    if row is None:
        raise user_not_found()
    return row


@get("/admin/users/{user_id:str}")
async def get_user(request: AnyRequest, auth: TheAuth, user_id: FromPath[str]) -> dict[str, Any]:
    requests.require_admin(request, auth)
    identifier = users.as_uuid(user_id)

    async def work(unit: Unit) -> dict[str, Any]:
        await load_user(unit.conn, identifier)
        return await users.document(unit.conn, identifier)

    return await auth.run(work)


async def _password_hash(auth: Auth, body: dict[str, Any]) -> str | None:
    """Raises: AuthError for a hash of a scheme that only the real server can check."""
    given = requests.text(body, "password_hash")
    if given:
        if not given.startswith("$scrypt$"):
            raise invalid("password_hash: only the sandbox's own $scrypt$ format is understood")
        return given
    password = requests.text(body, "password")
    if not password:
        return None
    passwords.check_strength(password, auth.config.password_length_min)
    return await passwords.hash_password(password, auth.config.password_cost_log2)


@post("/admin/users", status_code=200)
async def create_user(request: AnyRequest, auth: TheAuth) -> dict[str, Any]:
    requests.require_admin(request, auth)
    body = await requests.read_body(request)
    email = requests.require_email(body, "Cannot create a user without either an email or phone")
    password_hash = await _password_hash(auth, body)
    wanted = requests.text(body, "id")
    banned_until = _banned_until(body)

    async def work(unit: Unit) -> dict[str, Any]:
        await users.lock_email(unit.conn, email)
        if await users.find_by_email(unit.conn, email) is not None:
            raise email_exists()
        row = await users.insert(
            unit.conn,
            email,
            password_hash=password_hash,
            user_id=users.as_uuid(wanted) if wanted else None,
            user_metadata=requests.mapping(body, "user_metadata"),
            app_metadata=requests.mapping(body, "app_metadata"),
            role=requests.text(body, "role") or "authenticated",
            confirmed=requests.flag(body, "email_confirm"),
        )
        if banned_until is not None:
            await users.update(unit.conn, row["id"], banned_until=banned_until)
        return await users.document(unit.conn, row["id"])

    return await auth.run(work)


async def _apply_changes(
    conn: Connection, row: Row, body: dict[str, Any], password_hash: str | None
) -> None:
    changes: dict[str, Any] = {}
    for name, column in (
        ("user_metadata", "raw_user_meta_data"),
        ("app_metadata", "raw_app_meta_data"),
    ):
        if body.get(name) is not None:
            changes[column] = Jsonb(users.merged(row[column], requests.mapping(body, name)))
    if requests.text(body, "role"):
        changes["role"] = body["role"]
    if requests.text(body, "ban_duration"):
        changes["banned_until"] = _banned_until(body)
    if password_hash is not None:
        changes["encrypted_password"] = password_hash
        await sessions.end_sessions(conn, row["id"])
    if changes:
        await users.update(conn, row["id"], **changes)


@put("/admin/users/{user_id:str}")
async def update_user(request: AnyRequest, auth: TheAuth, user_id: FromPath[str]) -> dict[str, Any]:
    requests.require_admin(request, auth)
    identifier = users.as_uuid(user_id)
    body = await requests.read_body(request)
    email = requests.text(body, "email") and users.normalize_email(body["email"])
    confirm = requests.flag(body, "email_confirm")
    password_hash = await _password_hash(auth, body)

    async def work(unit: Unit) -> dict[str, Any]:
        conn = unit.conn
        row = await load_user(conn, identifier)
        if email and email != row["email"]:
            await users.lock_email(conn, email)
            if await users.find_by_email(conn, email) is not None:
                raise email_exists()
            await users.set_email(conn, row, email, verified=confirm)
        await _apply_changes(conn, await load_user(conn, identifier), body, password_hash)
        if confirm:
            await users.confirm(conn, await load_user(conn, identifier))
        return await users.document(conn, identifier)

    return await auth.run(work)


@delete("/admin/users/{user_id:str}", status_code=200)
async def delete_user(request: AnyRequest, auth: TheAuth, user_id: FromPath[str]) -> dict[str, Any]:
    requests.require_admin(request, auth)
    identifier = users.as_uuid(user_id)
    body = await requests.read_body(request)
    soft = requests.flag(body, "should_soft_delete")

    async def work(unit: Unit) -> dict[str, Any]:
        row = await load_user(unit.conn, identifier)
        if soft:
            if row["deleted_at"] is None:
                await users.soft_delete(unit.conn, row)
        else:
            await unit.conn.execute("delete from auth.users where id = %s", (identifier,))
        return {}

    return await auth.run(work)


@get("/admin/users/{user_id:str}/factors")
async def list_factors(
    request: AnyRequest, auth: TheAuth, user_id: FromPath[str]
) -> list[dict[str, Any]]:
    requests.require_admin(request, auth)
    identifier = users.as_uuid(user_id)

    async def work(unit: Unit) -> list[dict[str, Any]]:
        await load_user(unit.conn, identifier)
        rows = await users.list_factors(unit.conn, identifier)
        return [users.factor_json(row) for row in rows]

    return await auth.run(work)


@delete("/admin/users/{user_id:str}/factors/{factor_id:str}", status_code=200)
async def delete_factor(
    request: AnyRequest, auth: TheAuth, user_id: FromPath[str], factor_id: FromPath[str]
) -> dict[str, Any]:
    requests.require_admin(request, auth)
    identifier, wanted = users.as_uuid(user_id), factors.parse_factor_id(factor_id)

    async def work(unit: Unit) -> dict[str, Any]:
        await load_user(unit.conn, identifier)
        for row in await users.list_factors(unit.conn, identifier):
            if row["id"] == wanted:
                await factors.remove(unit.conn, row)
                return users.factor_json(row)
        raise AuthError(404, "mfa_factor_not_found", "Factor not found")

    return await auth.run(work)
