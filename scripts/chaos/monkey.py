"""What goes wrong around the code: processes die, Redis forgets, the database restarts."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import redis

from sandbox.stack.product import Child, Product
from scripts.chaos.plan import API_KILLS, DATABASE_RESTARTS, FLUSHES, KILL_SECONDS, Plan


class Monkey:
    """Kills whole process groups with SIGKILL and starts them again."""

    def __init__(self, product: Product, plan: Plan) -> None:
        self.counts: Counter[str] = Counter()
        self.ended_by_themselves: list[str] = []
        self._product = product
        self._plan = plan
        self._dice = random.Random(plan.seed)  # noqa: S311  repeatable, not a secret
        self._victim = 0

    async def kill_workers(self) -> None:
        """About every two seconds, in turns, until cancelled."""
        while True:
            await asyncio.sleep(KILL_SECONDS * self._dice.uniform(0.8, 1.2))
            workers = self._product.workers
            worker = workers[self._victim % len(workers)]
            self._victim += 1
            for other in workers:
                if not other.is_running():
                    self._note_end(other)
                    other.start(self._product.environ())
            await self._restart(worker)
            self.counts["worker_kills"] += 1

    async def disturb(self) -> None:
        """Everything else, spread over the time of the orders."""
        acts: list[tuple[float, Callable[[], Coroutine[Any, Any, None]]]] = []
        for act, times in (
            (self._flush, FLUSHES),
            (self._kill_api, API_KILLS),
            (self._restart_database, DATABASE_RESTARTS),
        ):
            acts += [((index + 1) / (times + 1), act) for index in range(times)]
        # Not two at the same moment: the middle of one is the middle of all.
        moments = sorted(
            (share + self._dice.uniform(-0.06, 0.06), index, act)
            for index, (share, act) in enumerate(acts)
        )
        started = time.monotonic()
        for share, _, act in moments:
            due = started + share * self._plan.window_seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await act()

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

    async def _restart(self, child: Child) -> None:
        if not child.is_running():
            self._note_end(child)
        await asyncio.to_thread(child.kill)
        child.start(self._product.environ())

    def _note_end(self, child: Child) -> None:
        self.ended_by_themselves.append(f"{child.name}: {child.tail(3)}")
