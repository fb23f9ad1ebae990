"""How many calls run at the provider for one worker process, and the memory that this takes."""

import time
from pathlib import Path
from typing import Any

import psutil
import psycopg

from scripts.bench import stage
from scripts.bench.memory import MIB
from scripts.bench.people import make_people

WANTED = 5_000
PEOPLE = 100
# Longer than it takes to submit them all: none may end before the count is taken.
MODEL_SECONDS = 900
BAR, GOAL, MEMORY_MIB_MAX = 5_000, 10_000, 200
# 4,823 were filled in 240 s on a machine with a load of 18 (2026-11-28).
_PATIENCE_SECONDS = 600

_RUNNING = (
    "select count(*) from app.provider_calls as call"
    " join app.generations as generation on generation.current_call_id = call.id"
    " where call.state = 'accepted' and generation.state = 'running'"
)


def measure(folder: Path) -> dict[str, Any]:
    with stage.bench_product(
        folder,
        workers=1,
        settings={"PROVIDER_ACCOUNT_SLOTS": str(WANTED)},
        fal_arguments=["--model-seconds", str(MODEL_SECONDS), "--account-limit", str(WANTED)],
    ) as product:
        stage.store_photo(product)
        people = make_people(
            product, PEOPLE, jwt_secret=stage.JWT_SECRET, normal_key=stage.PHOTO_KEY
        )
        process = psutil.Process(product.workers[0].pid)
        idle_mib = process.memory_info().rss / MIB
        began = time.monotonic()
        stage.request_scenes(product, people, WANTED)
        with psycopg.connect(product.stack.postgres.url(), autocommit=True) as conn:
            running = _wait_for_running(conn)
        seconds = time.monotonic() - began
        rss_mib = process.memory_info().rss / MIB
    return {
        "method": f"{WANTED} generations through the API to one worker process with as many slots "
        "and a model that does not end; calls that the provider accepted and nobody ended; "
        "resident set of the worker without its pixel processes",
        "in_flight": running,
        "rss_mib": round(rss_mib, 1),
        "rss_mib_idle": round(idle_mib, 1),
        "seconds_to_fill": round(seconds, 1),
        "bar": {"in_flight": BAR, "rss_mib": MEMORY_MIB_MAX},
        "goal": {"in_flight": GOAL, "rss_mib": MEMORY_MIB_MAX},
        "passed": running >= BAR and rss_mib <= MEMORY_MIB_MAX,
    }


def _wait_for_running(conn: psycopg.Connection[Any]) -> int:
    until = time.monotonic() + _PATIENCE_SECONDS
    running = 0
    while running < WANTED and time.monotonic() < until:
        row = conn.execute(_RUNNING).fetchone()
        assert row is not None
        running = row[0]
        time.sleep(0.5)
    return running
