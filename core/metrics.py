"""Counters of worker processes, flushed to app.metric_counters so that the API's /metrics has all.

Not money: a killed process loses its last few seconds of counts.
"""

from collections import defaultdict

import msgspec

from core.db import Connection

# Upper bounds in seconds; the model is the long part, our own delays are the short one.
LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900)

_ADD = """
insert into app.metric_counters (name, labels, value)
values (%s, %s::jsonb, %s)
on conflict (name, labels) do update
set value = app.metric_counters.value + excluded.value, seen_at = app.now()
"""

# A label that is counted no more (an operation, a provider's word for an error) goes after this.
_DELETE_STALE = "delete from app.metric_counters where seen_at < app.now() - interval '90 days'"


class Counters:
    """In memory until `flush`. Used on one event loop, so no lock is needed."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        key = (name, msgspec.json.encode(dict(sorted(labels.items()))).decode())
        self._values[key] += value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """One observation of a Prometheus histogram."""
        for bound in LATENCY_BUCKETS:
            if seconds <= bound:
                self.add(f"{name}_bucket", 1, **labels, le=str(bound))
        self.add(f"{name}_bucket", 1, **labels, le="+Inf")
        self.add(f"{name}_sum", seconds, **labels)
        self.add(f"{name}_count", 1, **labels)

    def take(self) -> list[tuple[str, str, float]]:
        """What has been counted since the last call, in a stable order for locking."""
        taken = [(name, labels, value) for (name, labels), value in self._values.items()]
        self._values.clear()
        return sorted(taken)

    def put_back(self, taken: list[tuple[str, str, float]]) -> None:
        for name, labels, value in taken:
            self._values[name, labels] += value


async def flush(conn: Connection, taken: list[tuple[str, str, float]]) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany(_ADD, taken)


async def delete_stale(conn: Connection) -> None:
    await conn.execute(_DELETE_STALE)
