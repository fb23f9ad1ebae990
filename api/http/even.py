"""Answers that take the same time whatever is found, so that time tells nobody who has an account.

A mail that goes out takes a second, and one that does not takes none; a wrong password costs a
hash, an unknown address does not.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import structlog

from core.identity.errors import BadCredentialsError

Result = TypeVar("Result")

log = structlog.get_logger()


class EvenAnswers:
    """Those of one process. `seconds` is the time of each; 0 turns it off."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: set[asyncio.Task[Any]] = set()

    async def wait(self, work: Coroutine[None, None, Result], *, what: str) -> Result | None:
        """What `work` returns or raises, when the time is over and not before.

        None where it is not finished by then: it goes on, and how it ends only the log is told.
        """
        if self._seconds == 0:
            return await work
        task = asyncio.create_task(work, name=what)
        self._running.add(task)
        try:
            await asyncio.sleep(self._seconds)
            if task.done():
                return task.result()
        finally:
            task.add_done_callback(self._ended)
        return None

    @contextlib.asynccontextmanager
    async def refusals(self) -> AsyncIterator[None]:
        """A refusal leaves when its time is over, or a whole multiple of it."""
        started = asyncio.get_running_loop().time()
        try:
            yield
        except BadCredentialsError:
            if self._seconds:
                spent = asyncio.get_running_loop().time() - started
                await asyncio.sleep(self._seconds - spent % self._seconds)
            raise

    async def close(self) -> None:
        """What is still going on is waited for: it may be somebody's mail."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning("http.even_answer_failed", what=task.get_name(), error=repr(error))
