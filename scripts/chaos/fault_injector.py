"""Faults around the code: processes are killed, Redis is flushed, the database restarts."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import redis

from sandbox.stack.product import Child, Product
from scripts.chaos.plan import (
    ACCOUNT_LOCKS,
    API_KILLS,
    DATABASE_RESTARTS,
    FLUSHES,
    KEYS_REVOKED,
    LOCKED_ACCOUNT,
    REVOKED_KEY,
    Plan,
)


class FaultInjector:
    """Kills whole process groups with SIGKILL and starts them again."""

    def __init__(self, product: Product, plan: Plan) -> None:
        self.counts: Counter[str] = Counter()
        self.ended_unkilled: list[str] = []
        self._product = product
        self._plan = plan
        self._rng = random.Random(plan.seed)  # noqa: S311  repeatable, not a secret
        self._next_worker = 0

    async def kill_workers(self) -> None:
        """Every few seconds, in turns, until cancelled."""
        while True:
            await asyncio.sleep(self._plan.kill_seconds * self._rng.uniform(0.8, 1.2))
            workers = self._product.workers
            worker = workers[self._next_worker % len(workers)]
            self._next_worker += 1
            for other in workers:
                if not other.is_running():
                    self._record_end(other)
                    other.start(self._product.environ())
            await self._restart(worker)
            self.counts["worker_kills"] += 1

    async def inject_outages(self) -> None:
        """Flushes, kills of the API and restarts of the database, spread over the requests."""
        outages: list[tuple[float, Callable[[], Coroutine[Any, Any, None]]]] = []
        for outage, times in (
            (self._flush, FLUSHES),
            (self._kill_api, API_KILLS),
            (self._restart_database, DATABASE_RESTARTS),
            (self._lock_account, ACCOUNT_LOCKS),
            (self._revoke_key, KEYS_REVOKED),
        ):
            outages += [((index + 1) / (times + 1), outage) for index in range(times)]
        # Apart by chance: evenly spread, the middle one of each kind would fall on one moment.
        moments = sorted(
            (share + self._rng.uniform(-0.06, 0.06), index, outage)
            for index, (share, outage) in enumerate(outages)
        )
        started = time.monotonic()
        for share, _, outage in moments:
            due_at = started + share * self._plan.window_seconds
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))
            await outage()

    async def _flush(self) -> None:
        def flush() -> None:
            with redis.Redis.from_url(self._product.stack.valkey.url()) as connection:
                connection.flushall()

        await asyncio.to_thread(flush)
        self.counts["redis_flushes"] += 1

    async def _kill_api(self) -> None:
        await self._restart(self._product.api)
        self.counts["api_kills"] += 1

    async def _restart_database(self) -> None:
        await asyncio.to_thread(self._product.stack.postgres.restart, "immediate")
        self.counts["database_restarts"] += 1

    async def _lock_account(self) -> None:
        """For submits, polls and results alike, as an empty balance does until it is filled."""
        await self._begin_outage({"kind": "locked", "account": LOCKED_ACCOUNT, "seconds": 4})
        self.counts["account_locks"] += 1

    async def _revoke_key(self) -> None:
        await self._begin_outage({"kind": "unauthorized", "key": REVOKED_KEY})
        self.counts["keys_revoked"] += 1

    async def _begin_outage(self, outage: dict[str, Any]) -> None:
        async with httpx.AsyncClient(base_url=self._product.fal_url, timeout=30) as http:
            (await http.post("/__control/outages", json=outage)).raise_for_status()

    async def _restart(self, child: Child) -> None:
        if not child.is_running():
            self._record_end(child)
        await asyncio.to_thread(child.kill)
        child.start(self._product.environ())

    def _record_end(self, child: Child) -> None:
        self.ended_unkilled.append(f"{child.name}: {child.tail(3)}")
