"""Images finished per second: one worker process of ours against RQ's pool of sixteen.

The same sandbox, storage and machine, one after the other; the pool first, while no worker of
ours runs. What is measured is the steady state: work waits all the time.
"""

import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import redis
from rq import Queue

from sandbox.stack.product import Child, Product
from scripts.bench import stage
from scripts.bench.blocking_job import QUEUE
from scripts.bench.blocking_pool import PROCESSES
from scripts.bench.memory import MemoryWatch
from scripts.bench.people import make_people

MODEL_SECONDS = 10
SLOTS = 400
PEOPLE = 100
WINDOW_SECONDS = 30
# Enough for a rate far above the goal.
GENERATIONS = 1_300
_WAVES = 3  # of the blocking pool: the first fills it, the others are measured
_SETTLE_SECONDS = 5
_PATIENCE_SECONDS = 120

BAR, GOAL = 15.0, 30.0


def measure(folder: Path) -> dict[str, Any]:
    arguments = ["--model-seconds", str(MODEL_SECONDS), "--account-limit", str(SLOTS)]
    settings = {"PROVIDER_ACCOUNT_SLOTS": str(SLOTS)}
    with stage.bench_product(
        folder, workers=0, settings=settings, fal_arguments=arguments
    ) as product:
        stage.deliver_jpeg(product)
        stage.store_photo(product)
        blocking = _measure_blocking(product)
        ours = _measure_ours(product)
    ratio = ours["images_per_second"] / blocking["images_per_second"]
    return {
        "method": f"model {MODEL_SECONDS} s, 1024 x 1024 JPEG, pre-rendered results; one worker "
        f"process with {SLOTS} slots, images finished in a window of {WINDOW_SECONDS} s, or "
        "until no work waits; rq's WorkerPool of {PROCESSES} with a job that submits, polls every "
        "0.5 s, downloads, verifies, makes a thumbnail and stores both, over two full waves; "
        "memory is the largest sum of proportional set sizes of all processes of each",
        "ours": ours,
        "blocking_pool": blocking,
        "ratio": round(ratio, 2),
        "bar": BAR,
        "goal": GOAL,
        "passed": ratio >= BAR and ours["memory_mib"] < blocking["memory_mib"],
    }


# --- rq's pool -----------------------------------------------------------------------------------


def _measure_blocking(product: Product) -> dict[str, Any]:
    stage.say("  pipeline: rq's pool of sixteen")
    with psycopg.connect(product.stack.postgres.url()) as conn:
        conn.execute("create schema bench")
        conn.execute(
            "create table bench.images"
            " (id uuid primary key, width integer, height integer, finished_at timestamptz)"
        )
    environ = product.environ()
    jobs = PROCESSES * _WAVES
    with redis.Redis.from_url(environ["REDIS_URL"]) as connection:
        queue = Queue(QUEUE, connection=connection)
        for _ in range(jobs):
            queue.enqueue(
                "scripts.bench.blocking_job.make_image",
                str(uuid.uuid4()),
                stage.PHOTO_KEY,
                "Place this exact piece of jewellery on polished white marble.",
            )
    pool = Child(
        "blocking-pool",
        ["scripts.bench.blocking_pool"],
        product.state_dir / "logs" / "blocking-pool.log",
    )
    pool.start({**environ, "BENCH_DATABASE_URL": product.stack.postgres.url()})
    try:
        with MemoryWatch(pool.pid) as memory:
            ends = _wait_for_blocking(product, pool, jobs)
    finally:
        pool.stop()
    measured = ends[-1] - ends[PROCESSES - 1]
    return {
        "images_per_second": round((jobs - PROCESSES) / measured, 2),
        "memory_mib": round(memory.peak_mib),
        "images": jobs,
    }


def _wait_for_blocking(product: Product, pool: Child, jobs: int) -> list[float]:
    """When each image was stored, in seconds of the database's clock."""
    ends = "select extract(epoch from finished_at)::float from bench.images order by 1"
    until = time.monotonic() + _PATIENCE_SECONDS
    with psycopg.connect(product.stack.postgres.url(), autocommit=True) as conn:
        while time.monotonic() < until:
            found = [row[0] for row in conn.execute(ends)]
            if len(found) >= jobs:
                return found
            time.sleep(0.5)
    raise TimeoutError(f"the blocking pool made {len(found)} of {jobs} images:\n{pool.tail()}")


# --- ours ----------------------------------------------------------------------------------------


def _measure_ours(product: Product) -> dict[str, Any]:
    stage.say("  pipeline: one worker process")
    people = make_people(product, PEOPLE, jwt_secret=stage.JWT_SECRET, normal_key=stage.PHOTO_KEY)
    worker = product.start_worker()
    product.wait_ready()
    stage.request_scenes(product, people, GENERATIONS)
    with psycopg.connect(product.stack.postgres.url(), autocommit=True) as conn:
        with MemoryWatch(worker.pid) as memory:
            began = _wait_for_steady_state(conn, worker)
            ended = _wait_for_window(conn)
        row = conn.execute(
            "select count(*) filter ("
            " where state = 'succeeded' and finished_at >= %(began)s and finished_at < %(ended)s),"
            " count(*) filter (where state in ('failed', 'cancelled')),"
            " extract(epoch from %(ended)s - %(began)s)::float"
            " from app.generations",
            {"began": began, "ended": ended},
        ).fetchone()
    assert row is not None
    finished, failed, seconds = row
    assert failed == 0, f"{failed} generations failed"
    return {
        "images_per_second": round(finished / seconds, 2),
        "memory_mib": round(memory.peak_mib),
        "images": finished,
        "window_seconds": round(seconds, 1),
    }


def _wait_for_steady_state(conn: psycopg.Connection[Any], worker: Child) -> datetime:
    """The database's time a little after the first image was finished."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        row = conn.execute(
            "select now() from app.generations where finished_at"
            " < now() - make_interval(secs => %s) limit 1",
            (_SETTLE_SECONDS,),
        ).fetchone()
        if row is not None:
            found: datetime = row[0]
            return found
        time.sleep(0.2)
    raise TimeoutError(f"no image was finished:\n{worker.tail()}")


def _wait_for_window(conn: psycopg.Connection[Any]) -> datetime:
    """The end of the window: a fast machine may run out of waiting work before."""
    until = time.monotonic() + WINDOW_SECONDS
    while True:
        row = conn.execute(
            "select now(), exists (select from app.generations where state = 'queued')"
        ).fetchone()
        assert row is not None
        now, is_work_waiting = row
        if not is_work_waiting or time.monotonic() >= until:
            found: datetime = now
            return found
        time.sleep(0.2)
