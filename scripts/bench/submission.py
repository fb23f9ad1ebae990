"""POST /v1/generations against pgbench running the same scoped transaction, in turns."""

import asyncio
import re
import statistics
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from sandbox.stack import binaries
from sandbox.stack.product import Product
from scripts.bench import http_load, stage
from scripts.bench.people import make_people
from scripts.people import Person

CLIENTS = 8
ROUND_SECONDS = 5
ROUNDS = 4
_TPS = re.compile(r"tps = ([\d.]+)")


BAR, GOAL = 0.25, 0.40


def measure(folder: Path) -> dict[str, Any]:
    """Rates are requests per second answered 202, and pgbench's transactions per second."""
    rounds = []
    # No worker: what it does with the work is another budget, and would be pgbench's loss.
    with stage.bench_product(folder, workers=0) as product:
        people = make_people(product, CLIENTS, jwt_secret=stage.JWT_SECRET)
        _post_round(product, people, seconds=2)  # warm-up: pools, caches, plans
        for _ in range(ROUNDS):
            load = _post_round(product, people, seconds=ROUND_SECONDS)
            rounds.append((load, _pgbench_round(product, people)))
    ratio = statistics.median(load.rate(202) / tps for load, tps in rounds)
    statuses: Counter[int] = Counter()
    for load, _ in rounds:
        statuses.update(load.statuses)
    return {
        "method": f"{CLIENTS} clients, {ROUNDS} rounds of {ROUND_SECONDS} s each in turns; one API"
        " process with sign-in, rate limits, logs and enqueueing on; pgbench runs the same"
        " scoped transaction with as many clients; median of the rounds' ratios",
        "requests_per_second": round(statistics.median(load.rate(202) for load, _ in rounds), 1),
        "pgbench_per_second": round(statistics.median(tps for _, tps in rounds), 1),
        "latency_ms_p50": round(statistics.median(load.percentile(0.5) for load, _ in rounds), 2),
        "statuses": {str(code): count for code, count in statuses.items()},
        "ratio": round(ratio, 3),
        "bar": BAR,
        "goal": GOAL,
        "passed": ratio >= BAR and set(statuses) == {202},
    }


def _post_round(product: Product, people: list[Person], *, seconds: float) -> http_load.Load:
    def request_of(person: Person) -> http_load.RequestOf:
        sent = stage.creation(person, {"operation": "cutout"})
        return lambda _: sent

    return asyncio.run(
        http_load.closed_loop(
            *stage.address_of(product), [request_of(person) for person in people], seconds=seconds
        )
    )


def _pgbench_round(product: Product, people: list[Person]) -> float:
    with tempfile.TemporaryDirectory(prefix="jewelshot-bench-") as folder:
        scripts = []
        for number, person in enumerate(people):
            script = Path(folder) / f"{number}.sql"
            script.write_text(_transaction(person))
            scripts += ["-f", str(script)]
        done = subprocess.run(
            [
                str(binaries.postgres_programs() / "pgbench"),
                *("-n", "-c", str(CLIENTS), "-j", "1", "-T", str(ROUND_SECONDS)),
                *scripts,
                product.environ()["DATABASE_URL"],
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = _TPS.search(done.stdout)
    assert found is not None, done.stdout
    return float(found.group(1))


def _transaction(person: Person) -> str:
    return (
        "begin;\n"
        "select set_config('role', 'jewelshot_user', true),"
        f" set_config('request.jwt.claims', '{person.claims_json}', true),"
        " set_config('statement_timeout', '8s', true), set_config('app.request_id', 'b', true);\n"
        f"select app.start_generation(gen_random_uuid(), 'cutout', '{person.upload_id}', '{{}}');\n"
        "commit;\n"
    )
