"""Transactions, and who runs them. The only place that opens a connection or commits.

A route or a job calls `Database.run(work, scope=...)`: one transaction, scoped to a role and its
verified claims, or unscoped as the login role with the grants it was given by name.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import psycopg
import structlog
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from core import errors

Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
Result = TypeVar("Result")

log = structlog.get_logger()

_SET_SCOPE = (
    "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true),"
    " set_config('statement_timeout', %s, true), set_config('app.request_id', %s, true)"
)


class Scope(msgspec.Struct, frozen=True):
    """The role a transaction runs as and the claims its policies see."""

    role: str
    claims: Mapping[str, Any]
    statement_timeout: str = "8s"


def user_scope(claims: Mapping[str, Any]) -> Scope:
    """Scope of one signed-in user. `claims` is a *verified* token payload."""
    return Scope(role="jewelshot_user", claims=claims)


def admin_scope(claims: Mapping[str, Any]) -> Scope:
    """Scope of an admin; the functions check role and aal2 again."""
    return Scope(role="jewelshot_admin", claims=claims)


# Nobody signed in: without claims a person's role sees what is public and no one's own rows.
ANONYMOUS = Scope(role="jewelshot_user", claims={}, statement_timeout="3s")


class Database:
    """One pool of one login role."""

    def __init__(self, url: str, *, pool_size: int, name: str) -> None:
        self._pool: Pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=pool_size,
            name=name,
            open=False,
            timeout=10,
            kwargs={
                "row_factory": dict_row,
                "prepare_threshold": None,  # transaction poolers keep no prepared statements
                "autocommit": True,  # transactions open in run() and nowhere else
                "application_name": f"jewelshot-{name}",
                "connect_timeout": 5,
            },
        )

    async def open(self, *, timeout_seconds: float = 30) -> None:
        await self._pool.open(wait=True, timeout=timeout_seconds)

    async def close(self) -> None:
        await self._pool.close()

    async def run(
        self, work: Callable[[Connection], Awaitable[Result]], *, scope: Scope | None = None
    ) -> Result:
        """Run `work` in one transaction and return what it returns.

        Replay: on a connection that breaks, before or in COMMIT, the pool is checked and `work`
        runs once more; it must be safe to repeat, which ids minted by the caller make it.
        Raises: DomainError for what a SQL function raised; psycopg.Error otherwise.
        """
        try:
            return await self._attempt(work, scope)
        except psycopg.OperationalError as error:
            if not _is_broken(error):
                raise
            log.warning("database.connection_broken", error=type(error).__name__)
            await self._pool.check()
            return await self._attempt(work, scope)

    async def _attempt(
        self, work: Callable[[Connection], Awaitable[Result]], scope: Scope | None
    ) -> Result:
        async with self.transaction(scope) as conn:
            return await work(conn)

    @contextlib.asynccontextmanager
    async def transaction(self, scope: Scope | None = None) -> AsyncIterator[Connection]:
        """One scoped transaction without the replay of `run`."""
        try:
            async with self._pool.connection() as conn, conn.transaction():
                if scope is not None:
                    claims = msgspec.json.encode(scope.claims).decode()
                    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
                    await conn.execute(
                        _SET_SCOPE, (scope.role, claims, scope.statement_timeout, request_id)
                    )
                yield conn
        except psycopg.Error as error:
            domain_error = errors.from_database(error)
            if domain_error is None:
                raise
            raise domain_error from error


def _is_broken(error: psycopg.OperationalError) -> bool:
    """True for a lost or refused connection (SQLSTATE none, 08xxx, 57P0x), not for a timeout."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or state in {"57P01", "57P02", "57P03"}


async def fetch_one(conn: Connection, query: Any, params: Any = ()) -> DictRow | None:
    return await (await conn.execute(query, params)).fetchone()


async def fetch_all(conn: Connection, query: Any, params: Any = ()) -> list[DictRow]:
    return await (await conn.execute(query, params)).fetchall()
