"""Who the caller is, and the transaction that runs as that caller.

Nothing here decides what a user may do: the policies on storage.objects and storage.buckets do.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import psycopg

from core.db import Connection, Database
from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.gateway import bearer_token, read_credentials
from sandbox.supabase.keystore import KeyStore, TokenError
from sandbox.supabase.storage.errors import (
    access_denied,
    already_exists,
    missing_property,
    no_such_bucket,
    row_refused,
)
from sandbox.supabase.storage.files import FileStore
from sandbox.supabase.storage.http import StorageRequest

Result = TypeVar("Result")

ROLES = {"anon", "authenticated", "service_role"}
_TOKEN_PROBLEMS = {
    "malformed": "Invalid Compact JWS",
    "expired": '"exp" claim timestamp check failed',
    "signature": "signature verification failed",
}
_SECRET_HEADERS = {"authorization", "apikey", "cookie"}

# What the real server sets in each of a user's transactions, read back from inside a policy.
_SCOPE = """
select set_config('role', %(role)s, true),
       set_config('request.jwt.claims', %(claims)s, true),
       set_config('request.jwt.claim.sub', %(sub)s, true),
       set_config('request.jwt.claim.role', %(role)s, true),
       set_config('request.jwt', %(token)s, true),
       set_config('request.headers', %(headers)s, true),
       set_config('request.method', %(method)s, true),
       set_config('request.path', %(path)s, true),
       set_config('storage.operation', %(operation)s, true),
       set_config('storage.allow_delete_query', 'true', true),
       set_config('search_path', 'storage,public,extensions', true),
       set_config('statement_timeout', '30s', true)
"""


class Caller(msgspec.Struct, frozen=True):
    role: str
    claims: dict[str, Any]
    token: str = ""

    @property
    def owner_id(self) -> str | None:
        sub = self.claims.get("sub")
        return str(sub) if sub else None


class ProbePassedError(Exception):
    """Rolls a probe back: the database would have let the user do it."""


def token_problem(error: TokenError) -> str:
    return _TOKEN_PROBLEMS[error.kind]


def owner_uuid(owner_id: str | None) -> UUID | None:
    """For the deprecated uuid column; null for subjects that are not uuids."""
    try:
        return UUID(owner_id) if owner_id else None
    except ValueError:
        return None


class Storage(msgspec.Struct, frozen=True):
    """What every operation needs."""

    config: SupabaseConfig
    db: Database
    keys: KeyStore
    files: FileStore

    def caller(self, request: StorageRequest) -> Caller:
        """Raises: GatewayError for a wrong API key, StorageError for a wrong token."""
        credentials = read_credentials(request.headers, self.config, self.keys)
        if credentials.token is None:
            if credentials.key_role is None:
                raise missing_property("headers", "authorization")
            claims = {"iss": "supabase", "role": credentials.key_role}
            return Caller(role=credentials.key_role, claims=claims)
        try:
            claims = self.keys.verify_access(credentials.token)
        except TokenError as error:
            raise access_denied(token_problem(error)) from error
        role = claims.get("role", "anon")
        if role not in ROLES:
            raise access_denied(f'role "{role}" does not exist')
        return Caller(role=role, claims=claims, token=credentials.token)

    async def as_server(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """As the owner of the tables: past the policies, as the server does for its own rows."""

        async def unguarded(conn: Connection) -> Result:
            await conn.execute("select set_config('storage.allow_delete_query', 'true', true)")
            return await work(conn)

        return await self.db.run(unguarded)

    async def as_caller(
        self,
        caller: Caller,
        request: StorageRequest,
        operation: str,
        work: Callable[[Connection], Awaitable[Result]],
        *,
        duplicate: str = "KeyAlreadyExists",
    ) -> Result:
        """As the caller's role, with the claims that the policies read.

        Raises: StorageError for what the database refused.
        """

        async def scoped(conn: Connection) -> Result:
            await enter_scope(conn, caller, request, operation)
            return await work(conn)

        try:
            return await self.db.run(scoped)
        except psycopg.errors.InsufficientPrivilege as error:
            raise row_refused() from error
        except psycopg.errors.UniqueViolation as error:
            raise already_exists(duplicate) from error
        except psycopg.errors.ForeignKeyViolation as error:
            raise no_such_bucket() from error


async def enter_scope(
    conn: Connection, caller: Caller, request: StorageRequest, operation: str
) -> None:
    headers = {
        name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS
    }
    await conn.execute(
        _SCOPE,
        {
            "role": caller.role,
            "claims": msgspec.json.encode(caller.claims | {"role": caller.role}).decode(),
            "sub": caller.owner_id or "",
            "token": caller.token or bearer_token(request.headers) or "",
            "headers": msgspec.json.encode(headers).decode(),
            "method": request.method,
            "path": request.path.replace("\x00", ""),
            "operation": operation,
        },
    )
