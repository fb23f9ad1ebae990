"""Sessions of one database whose steps happen in the order in which a test writes them.

A race tries many orders and may miss the one that matters. Here somebody holds a row, a session is
started and seen to wait for it, then the next: each order of two sessions at each row is tried
once. Whoever waits for each other in a circle is told so by the server after 20 ms.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.harness.database import LOCK_TIMEOUT, TestDatabase
from tests.harness.ledger import Conn

Work = Callable[[Conn], Any]

DEADLOCK_TIMEOUT = "20ms"
_PATIENCE_SECONDS = 20
_LOOK_SECONDS = 0.004


class Session:
    """A work that was started: it waits for a lock, or it is through."""

    def __init__(self, pid: int, ended: "Future[Any]", *, is_waiting: bool) -> None:
        self.pid = pid
        self.was_waiting = is_waiting
        self._ended = ended

    def result(self) -> Any:
        """What the work returned, or the error of the database that it met."""
        try:
            return self._ended.result(_PATIENCE_SECONDS)
        except psycopg.Error as error:
            return error


class LockOrder:
    def __init__(self, database: TestDatabase, pool: ThreadPoolExecutor) -> None:
        self._database = database
        self._pool = pool

    @contextlib.contextmanager
    def held(self, query: str, params: Any = ()) -> Iterator[None]:
        """Somebody keeps the rows that `query` locks; whoever needs one in the block waits."""
        with self._connect() as conn, conn.transaction():
            assert conn.execute(query.encode(), params).rowcount > 0, "there is nothing to hold"
            yield

    def start(self, work: Work) -> Session:
        """Begins `work` in a session of its own. Returns when it waits for a lock or is through."""
        pids: list[int] = []
        connected = threading.Event()

        def run() -> Any:
            with self._connect() as conn:
                pids.append(conn.info.backend_pid)
                connected.set()
                return work(conn)

        ended = self._pool.submit(run)
        assert connected.wait(_PATIENCE_SECONDS)
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            if ended.done():
                return Session(pids[0], ended, is_waiting=False)
            if pids[0] in self.waiting():
                return Session(pids[0], ended, is_waiting=True)
            time.sleep(_LOOK_SECONDS)
        raise AssertionError("it neither waits nor ends")

    def waiting(self) -> set[int]:
        """Processes of the server that wait for a lock in this database."""
        rows = self._database.rows(
            "select pid from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        return {row["pid"] for row in rows}

    async def until_waiting(self, sessions: int) -> None:
        """Until so many of the coroutines beside this one wait for a lock."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.waiting()) < sessions:  # noqa: ASYNC110  the server is looked at
                await asyncio.sleep(_LOOK_SECONDS)

    def _connect(self) -> Conn:
        return psycopg.connect(
            self._database.superuser_url,
            autocommit=True,
            row_factory=dict_row,
            options=f"-c lock_timeout={LOCK_TIMEOUT} -c deadlock_timeout={DEADLOCK_TIMEOUT}",
        )


@contextlib.contextmanager
def lock_order(database: TestDatabase) -> Iterator[LockOrder]:
    with ThreadPoolExecutor(8) as pool:
        yield LockOrder(database, pool)
