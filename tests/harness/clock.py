"""The clock of one test's own database: what `app.now()` and `app.clock_now()` say in it.

As shipped, both are the plain calls of pg_catalog (tests/migrations/test_privileges.py holds their
text). A test that lets time pass replaces their bodies in its clone, and here only: then every
statement of the product sees the later time, and no row is rewritten. The clocks of processes
(tokens, signed URLs, the stand-ins) stay where they are.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import DictRow

# Replaced, not dropped: owner, grants and what depends on them stay.
_REPLACE = """
create or replace function app.now() returns timestamptz language sql stable
as $$ select pg_catalog.now() + interval '{seconds} seconds' $$;
create or replace function app.clock_now() returns timestamptz language sql volatile
as $$ select pg_catalog.clock_timestamp() + interval '{seconds} seconds' $$
"""
# A time that is waited for is over a little later.
_PAST = timedelta(milliseconds=10)


class Clock:
    """Moves forwards only. `rows` runs one statement in the database, as its superuser."""

    def __init__(self, rows: Callable[..., list[DictRow]]) -> None:
        self._rows = rows
        self._ahead = timedelta()

    def now(self) -> datetime:
        (row,) = self._rows("select app.clock_now() as at")
        at: datetime = row["at"]
        return at

    def advance(self, by: timedelta | None = None, **parts: float) -> None:
        """`advance(minutes=13)`, with the keywords of timedelta, or by a timedelta."""
        passed = (by or timedelta()) + timedelta(**parts)
        assert passed >= timedelta(), "time does not run backwards"
        self._ahead += passed
        self._rows(_REPLACE.format(seconds=self._ahead.total_seconds()))

    def advance_past(self, query: str, params: Sequence[Any] = ()) -> None:
        """Until the one time that `query` selects is over; nothing passes for a null."""
        (row,) = self._rows(query, params)
        (at,) = row.values()
        if at is not None:
            self.advance(max(timedelta(), at - self.now() + _PAST))
