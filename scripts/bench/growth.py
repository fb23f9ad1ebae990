"""The calls that users wait for, on a short and on a long history: two databases, in turns.

Taking turns cancels the machine's drift. `floor` is an empty scoped transaction: it has no table
to depend on, so its ratio says how far the two databases differ for other reasons.
"""

import asyncio
import contextlib
import json
import statistics
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from core.credits import service as credits_service
from core.db import Connection, Database, user_scope
from core.generations import service
from core.generations.pipeline import queries
from core.generations.types import Filters, NewGeneration
from migrations.runner.roles import API_ROLE, WORKER_ROLE
from sandbox.stack.local import LocalStack
from scripts.bench import stage
from scripts.bench.history import write_history

SIZES = (10_000, 1_000_000)
PEOPLE = 400
ROUNDS = 400
BAR = 1.1
_WARM_UP = 60  # rounds; they leave as many generations waiting in the queue
_KEY = {"name": "FAL_AI_KEY_1", "fingerprint": "bench", "account": "default"}
_SLOTS = 100_000
_PAGE = 20

Call = Callable[[], Awaitable[object]]


class BenchDatabase(msgspec.Struct, frozen=True):
    """One database with its history, its pools and its people."""

    api: Database
    worker: Database
    people: list[tuple[uuid.UUID, uuid.UUID]]


def measure(folder: Path) -> dict[str, Any]:
    stack = LocalStack(folder / "state", durable=False)
    try:
        stack.start()
        histories = [_make_database(stack, size) for size in SIZES]
        times = asyncio.run(_measure(stack, histories))
    finally:
        stack.remove()
    medians = {
        name: [statistics.median(values) * 1000 for values in both] for name, both in times.items()
    }
    ratios = {name: round(large / small, 3) for name, (small, large) in medians.items()}
    floor = medians.pop("floor")
    return {
        "method": f"two databases with {SIZES[0]:,} and {SIZES[1]:,} finished generations (twice "
        f"as many transfers, one call and five events each) of {PEOPLE} people; {ROUNDS} rounds "
        "of each call in turns, through the product's own functions on one connection; medians "
        "in ms",
        "medians_ms": {
            name: {"small": round(small, 3), "large": round(large, 3)}
            for name, (small, large) in medians.items()
        },
        "floor_ms": {"small": round(floor[0], 3), "large": round(floor[1], 3)},
        "floor_ratio": ratios.pop("floor"),
        "ratios": ratios,
        "ratios_without_floor": {
            name: round((large - floor[1]) / (small - floor[0]), 3)
            for name, (small, large) in medians.items()
        },
        "ratio": max(ratios.values()),
        "bar": BAR,
        "goal": BAR,
        "passed": max(ratios.values()) <= BAR,
    }


def _make_database(stack: LocalStack, size: int) -> tuple[str, list[tuple[uuid.UUID, uuid.UUID]]]:
    """A copy of the migrated database with a history of `size` generations."""
    stage.say(f"  growth: writing {size:,} generations")
    name = f"history_{size}"
    with psycopg.connect(stack.postgres.url(database="template1"), autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template postgres").format(sql.Identifier(name)))
    url = stack.postgres.url(database=name)
    with psycopg.connect(url) as conn:
        conn.execute("select app.sync_provider_keys(%s, %s)", (json.dumps([_KEY]), _SLOTS))
    return name, write_history(url, generations=size, people=PEOPLE)


async def _measure(
    stack: LocalStack, histories: list[tuple[str, list[tuple[uuid.UUID, uuid.UUID]]]]
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of each call on the small and on the large history."""
    stage.say("  growth: measuring")
    async with contextlib.AsyncExitStack() as opened:
        databases = []
        for name, people in histories:
            api, worker = (
                Database(stack.postgres.url(role, name), pool_size=1, name="bench")
                for role in (API_ROLE, WORKER_ROLE)
            )
            for database in (api, worker):
                opened.push_async_callback(database.close)
                await database.open()
            databases.append(BenchDatabase(api, worker, people))
        times: defaultdict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        for number in range(-_WARM_UP, ROUNDS):
            both = [_calls(bench, number, take=number >= 0) for bench in databases]
            for name in both[0]:
                # The order changes with the round, because the second call finds warmer caches.
                for which in (0, 1) if number % 2 else (1, 0):
                    seconds = await _timed(both[which][name])
                    if number >= 0:
                        times[name][which].append(seconds)
        return times


async def _timed(call: Call) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


def _calls(bench: BenchDatabase, number: int, *, take: bool) -> dict[str, Call]:
    """One round's calls, as one of the people."""
    # A stride through all people, in another order than that of the history.
    user_id, upload_id = bench.people[number * 7 % len(bench.people)]
    claims = {"sub": str(user_id), "session_id": str(user_id), "aal": "aal1"}
    scope = user_scope({**claims, "role": "authenticated"})
    new = NewGeneration(operation="packshot", upload_id=upload_id, params={})

    async def nothing(conn: Connection) -> None:
        await conn.execute("select 1")

    async def create(conn: Connection) -> None:
        await service.start(conn, new)

    async def page(conn: Connection) -> None:
        found = await service.list_generations(conn, Filters(), before=None, limit=_PAGE + 1)
        assert len(found) > _PAGE

    async def balance(conn: Connection) -> None:
        await credits_service.get_balance(conn, user_id)

    async def ticket(conn: Connection) -> None:
        taken = await queries.open_calls(conn, [_KEY["fingerprint"]], limit=1, lease_seconds=3600)
        assert len(taken) == 1

    calls: dict[str, Call] = {
        "floor": lambda: bench.api.run(nothing, scope=scope),
        "create": lambda: bench.api.run(create, scope=scope),
        "list_page": lambda: bench.api.run(page, scope=scope),
        "balance": lambda: bench.api.run(balance, scope=scope),
    }
    if take:
        calls["ticket"] = lambda: bench.worker.run(ticket)
    return calls
