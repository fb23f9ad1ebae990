"""A ticket beside crowds that wait: ten people and ten thousand, one with everything, and others.

A database for each crowd; they take turns, which cancels the machine's drift.
"""

import asyncio
import contextlib
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from core.db import Connection, Database
from core.generations.pipeline import queries
from migrations.runner.roles import WORKER_ROLE
from sandbox.stack.local import LocalStack
from scripts.bench import stage

QUEUED = 100_000
ROUNDS = 300
BAR, GOAL = 2.0, 1.2
_WARM_UP = 30  # rounds; statements and caches
_KEY = {"name": "FAL_AI_KEY_1", "fingerprint": "bench", "account": "default"}
_SLOTS = 10_000


class Crowd(msgspec.Struct, frozen=True):
    """`people` who have `each` generations waiting."""

    people: int
    each: int
    paused: int = 0  # of each, those that wait for another attempt an hour away
    is_late: bool = False  # all of them out of time, and no sweep has come by yet


CROWDS = {
    "ten_people": Crowd(10, 100),  # as many as there are tickets, and more
    "ten_people_with_all": Crowd(10, QUEUED // 10),
    "ten_thousand_people": Crowd(10_000, QUEUED // 10_000),
    "one_person": Crowd(1, QUEUED),
    "paused": Crowd(10_000, 10, paused=9),
    "late": Crowd(10_000, 10, is_late=True),
}
_BASELINE = "ten_people"

# Triggers and foreign keys are off: the rows are those that the product would have written.
_PEOPLE = (
    "insert into app.users (id) select gen_random_uuid() from generate_series(1, %(people)s)",
    """
insert into app.uploads (
  id, user_id, state, storage_key, normal_key, pixel_sha256, content_type, width, height
)
select gen_random_uuid(), id, 'ready', 'bench/in.jpg', 'bench/normal.jpg', 'bench', 'image/jpeg',
  1024, 1024
from app.users
""",
    """
insert into app.generations (
  id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, input_key,
  wait_until, available_at, line, line_no
)
select gen_random_uuid(), photo.user_id, photo.id, 'scene', 1, 'reimagined', 4,
  '{"preset": "marble"}', photo.normal_key,
  app.now() + case when %(is_late)s then interval '-1 hour' else interval '1 day' end,
  case when number <= %(paused)s then app.now() + interval '1 hour' else app.now() end,
  'interactive:fal', case when number > %(paused)s then number end
from app.uploads as photo
cross join generate_series(1, %(each)s) as number
""",
    """
insert into app.lines (line, key, serve_at, first_no, last_no)
select line, user_id, min(available_at) + random() * interval '1 ms', min(line_no), max(line_no)
from app.generations
group by line, user_id
""",
    "vacuum (analyze) app.generations, app.lines, app.uploads, app.users",
)


def measure(folder: Path) -> dict[str, Any]:
    stack = LocalStack(folder / "state", durable=False)
    try:
        stack.start()
        for name, crowd in CROWDS.items():
            _make_database(stack, name, crowd)
        times = asyncio.run(_measure(stack))
    finally:
        stack.remove()
    medians = {name: statistics.median(values) * 1000 for name, values in times.items()}
    ratios = {
        name: round(median / medians[_BASELINE], 2)
        for name, median in medians.items()
        if name != _BASELINE
    }
    return {
        "method": f"one ticket (app.open_calls) beside each crowd, {ROUNDS} rounds in turns;"
        " medians in ms, ratios to ten people with a hundred rows each; `paused`: nine of ten wait"
        " for another attempt; `late`: all are out of time and not swept yet",
        "crowds": {name: msgspec.to_builtins(crowd) for name, crowd in CROWDS.items()},
        "medians_ms": {name: round(median, 3) for name, median in medians.items()},
        "ratios": ratios,
        "ratio": max(ratios.values()),
        "bar": BAR,
        "goal": GOAL,
        "passed": max(ratios.values()) <= BAR,
    }


def _make_database(stack: LocalStack, name: str, crowd: Crowd) -> None:
    stage.say(f"  tickets: {name}, {crowd.people:,} people with {crowd.each:,} each")
    with psycopg.connect(stack.postgres.url(database="template1"), autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template postgres").format(sql.Identifier(name)))
    with psycopg.connect(
        stack.postgres.url(database=name), autocommit=True, prepare_threshold=None
    ) as conn:
        conn.execute("select app.sync_provider_keys(%s, %s)", (json.dumps([_KEY]), _SLOTS))
        conn.execute("set session_replication_role = replica")
        for statement in _PEOPLE:
            conn.execute(
                statement, None if statement.startswith("vacuum") else msgspec.to_builtins(crowd)
            )


async def _measure(stack: LocalStack) -> dict[str, list[float]]:
    """Seconds of each ticket beside each crowd."""
    stage.say("  tickets: measuring")

    async def ticket(conn: Connection) -> None:
        await queries.open_calls(conn, [_KEY["fingerprint"]], limit=1, lease_seconds=3600)

    times: defaultdict[str, list[float]] = defaultdict(list)
    async with contextlib.AsyncExitStack() as opened:
        databases = {}
        for name in CROWDS:
            database = Database(stack.postgres.url(WORKER_ROLE, name), pool_size=1, name="bench")
            opened.push_async_callback(database.close)
            await database.open()
            databases[name] = database
        for number in range(-_WARM_UP, ROUNDS):
            # The order changes with the round, because the later ones find warmer caches.
            names = list(databases) if number % 2 else list(reversed(databases))
            for name in names:
                began = time.perf_counter()
                await databases[name].run(ticket)
                if number >= 0:
                    times[name].append(time.perf_counter() - began)
    return times
