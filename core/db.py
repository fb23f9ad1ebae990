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
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from core import keepalive, sql_errors

Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
Result = TypeVar("Result")

log = structlog.get_logger()

# The pool doubles its pause between two tries for as long as this, and begins anew with the next
# request. With its own five minutes it stayed away for up to as long again as the database had:
# 12 s after 18, 22 s after 36 (measured 2026-11-28); so it was 1 s after 18, 3 s after 36.
_RECONNECT_SECONDS = 8.0

# One message each: a transaction costs no round trip more than its own statements need.
_BEGIN = sql.SQL("begin")
_BEGIN_SNAPSHOT = sql.SQL("begin isolation level repeatable read read only")
_SCOPE = sql.SQL(
    "; select set_config('role', {role}, true), set_config('request.jwt.claims', {claims}, true),"
    " set_config('statement_timeout', {timeout}, true),"
    " set_config('app.request_id', {request}, true), set_config('TimeZone', 'UTC', true)"
)
# Else times and days are those of whatever zone the role, the database or the server was given.
_UTC = sql.SQL("; set local time zone 'UTC'")
_COMMIT = "select current_setting('app.wakeups', true) as note; commit"


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
    """One pool of one login role.

    `wake` gets the note of the tasks that a committed transaction added; see core/tasks/wakeups.py.
    """

    def __init__(
        self, url: str, *, pool_size: int, name: str, wake: Callable[[str], None] | None = None
    ) -> None:
        self._wake = wake
        self._pool: Pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=pool_size,
            name=name,
            open=False,
            timeout=10,
            reconnect_timeout=_RECONNECT_SECONDS,
            kwargs={
                "row_factory": dict_row,
                "prepare_threshold": None,  # transaction poolers keep no prepared statements
                "autocommit": True,  # transactions open in run() and nowhere else
                "application_name": f"jewelshot-{name}",
                "connect_timeout": 5,
                **keepalive.DATABASE,
            },
        )

    async def open(self, *, timeout_seconds: float = 30) -> None:
        await self._pool.open(wait=True, timeout=timeout_seconds)

    async def close(self) -> None:
        await self._pool.close()

    async def run(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        *,
        scope: Scope | None = None,
        snapshot: bool = False,
    ) -> Result:
        """Run `work` in one transaction, wake the tasks it added, and return what it returns.

        `snapshot`: read-only, and every statement sees the database at one moment.
        Replay: on a connection that breaks, before or in COMMIT, the pool is checked and `work`
        runs once more; it must be safe to repeat, which ids minted by the caller make it.
        Raises: DomainError for what a SQL function raised; psycopg.Error otherwise.
        """
        try:
            return await self._attempt(work, scope, snapshot=snapshot)
        except psycopg.OperationalError as error:
            if not _is_broken(error):
                raise
            log.warning("database.connection_broken", error=type(error).__name__)
            await self._pool.check()
            return await self._attempt(work, scope, snapshot=snapshot)

    async def _attempt(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        scope: Scope | None,
        *,
        snapshot: bool,
    ) -> Result:
        async with self.transaction(scope, snapshot=snapshot) as conn:
            return await work(conn)

    @contextlib.asynccontextmanager
    async def transaction(
        self, scope: Scope | None = None, *, snapshot: bool = False
    ) -> AsyncIterator[Connection]:
        """One scoped transaction without the replay of `run`."""
        try:
            # The pool's own context rolls the transaction back when anything raises.
            async with self._pool.connection() as conn:
                await conn.execute(_begin(scope, snapshot=snapshot))
                yield conn
                noted = await (await conn.execute(_COMMIT)).fetchone()
        except psycopg.Error as error:
            domain_error = sql_errors.from_database(error)
            if domain_error is None:
                raise
            raise domain_error from error
        if self._wake is not None and noted is not None and noted["note"]:
            self._wake(noted["note"])


def _begin(scope: Scope | None, *, snapshot: bool) -> sql.Composed:
    begin = _BEGIN_SNAPSHOT if snapshot else _BEGIN
    if scope is None:
        return begin + _UTC
    return begin + _SCOPE.format(
        role=scope.role,
        claims=msgspec.json.encode(scope.claims).decode(),
        timeout=scope.statement_timeout,
        request=structlog.contextvars.get_contextvars().get("request_id", ""),
    )


@contextlib.asynccontextmanager
async def savepoint(conn: Connection) -> AsyncIterator[None]:
    """An error within it rolls back what it wrote; the transaction goes on."""
    async with conn.transaction():
        yield


_CONTENTION = frozenset({"40001", "40P01", "55P03"})  # serialization, deadlock, lock timeout


def may_pass(error: BaseException) -> bool:
    """True where the database is unavailable or full, or ended this transaction in a deadlock."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return True
    return isinstance(error, psycopg.OperationalError) and (
        _is_broken(error) or error.sqlstate in _CONTENTION
    )


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
