"""Deadlines that fall together: how long after them the last credit is back.

The provider is away, so nobody is served; all generations' waiting clocks end at one moment.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from scripts.bench import stage
from scripts.bench.people import make_people
from scripts.people import Person

GENERATIONS, PEOPLE = 10_000, 200
SECONDS_BAR = 15.0
_WORKERS = 2
_NOTICE_SECONDS = 5
_PATIENCE_SECONDS = 180


def measure(folder: Path) -> dict[str, Any]:
    with (
        stage.bench_product(folder, workers=_WORKERS) as product,
        psycopg.connect(product.stack.postgres.url(), autocommit=True) as conn,
    ):
        _close_accounts(conn)
        people = make_people(product, PEOPLE, jwt_secret=stage.JWT_SECRET)
        _start(conn, people)
        _let_all_end_at_once(conn)
        _wait(conn)
        seconds = _scalar(
            conn,
            "select extract(epoch from max(finished_at) - max(wait_until))"
            "::double precision from app.generations",
        )
        back = _scalar(conn, "select count(*) from app.reservations where state = 'refunded'")
    return {
        "method": f"{GENERATIONS} waiting generations of {PEOPLE} people whose time ends at one "
        f"moment, {_WORKERS} workers, the usual tick of 5 s; from that moment to the last refund",
        "refunded": back,
        "last_refund_seconds": round(seconds, 1),
        "bar": {"last_refund_seconds": SECONDS_BAR},
        "passed": back == GENERATIONS and seconds <= SECONDS_BAR,
    }


def _scalar(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _close_accounts(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "update app.provider_accounts"
        " set breaker_state = 'open', breaker_until = now() + interval '1 day'"
    )


def _start(conn: psycopg.Connection[Any], people: Sequence[Person]) -> None:
    for person in people:
        with conn.transaction():
            conn.execute(
                "select set_config('role', 'jewelshot_user', true),"
                " set_config('request.jwt.claims', %s, true)",
                (msgspec.json.encode(person.claims).decode(),),
            )
            conn.execute(
                "select app.start_generation(gen_random_uuid(), 'cutout', %s, '{}')"
                " from generate_series(1, %s)",
                (person.upload_id, GENERATIONS // PEOPLE),
            )


def _let_all_end_at_once(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "update app.generations set wait_until = now() + make_interval(secs => %s)",
        (_NOTICE_SECONDS,),
    )


def _wait(conn: psycopg.Connection[Any]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while _scalar(conn, "select count(*) from app.generations where finished_at is null"):
        assert time.monotonic() < until, "they never ended"
        time.sleep(0.5)
