"""Users and identities: rows in, the API's JSON out."""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_all, fetch_one
from sandbox.supabase.auth.errors import AuthError, invalid

Row = dict[str, Any]

EMAIL_PATTERN = re.compile(r"^[^@\s<>()\[\],;:\\\"]+@[^@\s.]+(\.[^@\s.]+)+$")
EMAIL_LENGTH_MAX = 255

_COLUMNS = sql.SQL(
    """id, aud, role, email, phone, encrypted_password, email_confirmed_at, confirmed_at,
       invited_at, confirmation_sent_at, recovery_sent_at, email_change, email_change_sent_at,
       email_change_confirm_status, last_sign_in_at, raw_app_meta_data, raw_user_meta_data,
       created_at, updated_at, banned_until, deleted_at, is_anonymous, reauthentication_sent_at"""
)
_TIMES = (
    "invited_at",
    "email_confirmed_at",
    "confirmed_at",
    "confirmation_sent_at",
    "recovery_sent_at",
    "email_change_sent_at",
    "reauthentication_sent_at",
    "last_sign_in_at",
    "banned_until",
    "deleted_at",
)


def now() -> datetime:
    return datetime.now(UTC)


def stamp(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def normalize_email(value: Any) -> str:
    """Raises: AuthError for what is not an address."""
    email = value.strip().lower() if isinstance(value, str) else ""
    if len(email) > EMAIL_LENGTH_MAX or not EMAIL_PATTERN.match(email):
        raise invalid("Unable to validate email address: invalid format")
    return email


def as_uuid(value: str) -> UUID:
    """Raises: AuthError 404, which is what the server makes of a malformed id."""
    try:
        return UUID(value)
    except ValueError as error:
        raise AuthError(404, "validation_failed", "user_id must be an UUID") from error


async def lock_email(conn: Connection, email: str) -> None:
    """Two sign-ups of one address wait for each other instead of failing on the index."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (email,))


async def find_by_id(conn: Connection, user_id: UUID | str, *, lock: bool = False) -> Row | None:
    query = sql.SQL("select {} from auth.users where id = %s {}").format(
        _COLUMNS, sql.SQL("for update" if lock else "")
    )
    return await fetch_one(conn, query, (user_id,))


async def find_by_email(conn: Connection, email: str, *, lock: bool = False) -> Row | None:
    query = sql.SQL("select {} from auth.users where email = %s and is_sso_user = false {}").format(
        _COLUMNS, sql.SQL("for update" if lock else "")
    )
    return await fetch_one(conn, query, (email,))


async def get_by_id(conn: Connection, user_id: UUID | str) -> Row:
    row = await find_by_id(conn, user_id)
    assert row is not None
    return row


async def list_page(
    conn: Connection, *, limit: int, offset: int, containing: str
) -> tuple[list[Row], int]:
    where = "where is_sso_user = false and position(%(containing)s in coalesce(email, '')) > 0"
    params = {"limit": limit, "offset": offset, "containing": containing.lower()}
    query = sql.SQL(
        "select {} from auth.users {} order by created_at desc, id"
        " limit %(limit)s offset %(offset)s"
    ).format(_COLUMNS, sql.SQL(where))
    rows = await fetch_all(conn, query, params)
    count = await fetch_one(
        conn, sql.SQL("select count(*) as total from auth.users {}").format(sql.SQL(where)), params
    )
    assert count is not None
    return rows, int(count["total"])


async def insert(
    conn: Connection,
    email: str,
    *,
    password_hash: str | None,
    user_id: UUID | None = None,
    user_metadata: Mapping[str, Any] | None = None,
    app_metadata: Mapping[str, Any] | None = None,
    role: str = "authenticated",
    confirmed: bool = False,
    invited: bool = False,
) -> Row:
    """A user with its e-mail identity."""
    identifier = user_id or uuid4()
    at = now()
    identity = {"sub": str(identifier), "email": email}
    flags = {"email_verified": confirmed, "phone_verified": False}
    app = {"provider": "email", "providers": ["email"]} | dict(app_metadata or {})
    user = dict(user_metadata or {}) | identity | flags
    await conn.execute(
        """
        insert into auth.users
          (instance_id, id, aud, role, email, encrypted_password, raw_app_meta_data,
           raw_user_meta_data, email_confirmed_at, invited_at, created_at, updated_at)
        values
          ('00000000-0000-0000-0000-000000000000', %s, 'authenticated', %s, %s, %s, %s, %s,
           %s, %s, %s, %s)
        """,
        (identifier, role, email, password_hash, Jsonb(app), Jsonb(user),
         at if confirmed else None, at if invited else None, at, at),
    )  # fmt: skip
    await conn.execute(
        """
        insert into auth.identities
          (provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at)
        values (%s, %s, %s, 'email', %s, %s, %s)
        """,
        (str(identifier), identifier, Jsonb(identity | flags), at, at, at),
    )
    return await get_by_id(conn, identifier)


async def update(conn: Connection, user_id: UUID, **values: Any) -> None:
    """Set columns of one user. The names are ours, never a caller's."""
    values["updated_at"] = now()
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
    )
    query = sql.SQL("update auth.users set {} where id = {}").format(
        assignments, sql.Placeholder("user_id")
    )
    await conn.execute(query, values | {"user_id": user_id})


async def set_email(conn: Connection, row: Row, email: str, *, verified: bool) -> None:
    """The address of the user, of its e-mail identity and in its metadata."""
    changes = {"email": email, "email_verified": verified}
    await update(
        conn,
        row["id"],
        email=email,
        raw_user_meta_data=Jsonb((row["raw_user_meta_data"] or {}) | changes),
    )
    await conn.execute(
        "update auth.identities set identity_data = identity_data || %s, updated_at = now()"
        " where user_id = %s and provider = 'email'",
        (Jsonb(changes), row["id"]),
    )


async def confirm(conn: Connection, row: Row) -> None:
    """The address is its owner's: all open one-time tokens are void."""
    await update(conn, row["id"], email_confirmed_at=row["email_confirmed_at"] or now())
    await set_email(conn, row, row["email"], verified=True)
    await conn.execute("delete from auth.one_time_tokens where user_id = %s", (row["id"],))


def merged(old: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata merges; a null deletes its key."""
    both = dict(old or {}) | dict(changes)
    return {name: value for name, value in both.items() if value is not None}


def is_banned(row: Row) -> bool:
    return row["banned_until"] is not None and row["banned_until"] > now()


async def _identities(conn: Connection, user_id: UUID) -> list[dict[str, Any]]:
    rows = await fetch_all(
        conn,
        "select id, provider_id, user_id, identity_data, provider, last_sign_in_at, created_at,"
        " updated_at, email from auth.identities where user_id = %s order by created_at, id",
        (user_id,),
    )
    return [
        {
            "identity_id": str(row["id"]),
            "id": row["provider_id"],
            "user_id": str(row["user_id"]),
            "identity_data": row["identity_data"],
            "provider": row["provider"],
            "last_sign_in_at": stamp(row["last_sign_in_at"] or row["created_at"]),
            "created_at": stamp(row["created_at"]),
            "updated_at": stamp(row["updated_at"]),
            "email": row["email"],
        }
        for row in rows
    ]


def factor_json(row: Row) -> dict[str, Any]:
    challenged = row["last_challenged_at"]
    return {
        "id": str(row["id"]),
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
        "status": row["status"],
        "friendly_name": row["friendly_name"] or "",
        "factor_type": row["factor_type"],
        "phone": row["phone"] or "",
        "last_challenged_at": stamp(challenged) if challenged else None,
    }


async def list_factors(conn: Connection, user_id: UUID) -> list[Row]:
    return await fetch_all(
        conn,
        "select id, user_id, created_at, updated_at, status, friendly_name, factor_type, phone,"
        " secret, last_challenged_at from auth.mfa_factors where user_id = %s"
        " order by created_at, id",
        (user_id,),
    )


async def document(conn: Connection, user_id: UUID) -> dict[str, Any]:
    """The user as every answer shows it, identities and factors included."""
    row = await get_by_id(conn, user_id)
    factors = [factor_json(factor) for factor in await list_factors(conn, user_id)]
    return _document(row, await _identities(conn, user_id), factors)


def _document(
    row: Row, identities: list[dict[str, Any]], factors: list[dict[str, Any]]
) -> dict[str, Any]:
    document = {
        "id": str(row["id"]),
        "aud": row["aud"] or "",
        "role": row["role"] or "",
        "email": row["email"] or "",
        "phone": row["phone"] or "",
        "app_metadata": row["raw_app_meta_data"] or {},
        "user_metadata": row["raw_user_meta_data"] or {},
        "identities": identities,
        "created_at": stamp(row["created_at"]),
        "updated_at": stamp(row["updated_at"]),
        "is_anonymous": row["is_anonymous"],
    }
    document |= {name: stamp(row[name]) for name in _TIMES if row[name] is not None}
    if row["email_change"]:
        document["new_email"] = row["email_change"]
    if factors:
        document["factors"] = factors
    return document


def obfuscated(email: str, user_metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a sign-up with a taken address answers: a made-up user without role and identities."""
    at = stamp(now())
    return {
        "id": str(uuid4()),
        "aud": "authenticated",
        "role": "",
        "email": email,
        "phone": "",
        "confirmation_sent_at": at,
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": dict(user_metadata),
        "identities": [],
        "created_at": at,
        "updated_at": at,
        "is_anonymous": False,
    }


def _scrambled(user_id: UUID, value: str) -> str:
    digest = hashlib.sha256(f"{user_id}{value}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def soft_delete(conn: Connection, row: Row) -> None:
    """Keeps the row without personal data: the address can sign up again."""
    await conn.execute(
        "update auth.identities set provider_id = %s, identity_data = '{}' where user_id = %s",
        (_scrambled(row["id"], str(row["id"])), row["id"]),
    )
    await conn.execute("delete from auth.sessions where user_id = %s", (row["id"],))
    await conn.execute("delete from auth.mfa_factors where user_id = %s", (row["id"],))
    await conn.execute("delete from auth.one_time_tokens where user_id = %s", (row["id"],))
    await update(
        conn,
        row["id"],
        email=_scrambled(row["id"], row["email"] or ""),
        encrypted_password=None,
        email_change="",
        raw_user_meta_data=Jsonb({}),
        raw_app_meta_data=Jsonb({}),
        deleted_at=now(),
    )
