"""POST /v1/generations against pgbench running the same scoped transaction, in turns."""

import asyncio
import json
import re
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.bench import http_load
from scripts.bench.people import Person
from scripts.stack import binaries
from scripts.stack.product import Product

CLIENTS = 8
ROUND_SECONDS = 5
ROUNDS = 4
_TPS = re.compile(r"tps = ([\d.]+)")


def measure(product: Product, people: list[Person]) -> dict[str, Any]:
    """Rates are requests per second answered 202, and pgbench's transactions per second."""
    rounds = []
    _post_round(product, people, seconds=2)  # warm-up: pools, caches, plans
    for _ in range(ROUNDS):
        load = _post_round(product, people, seconds=ROUND_SECONDS)
        transactions = _pgbench_round(product, people)
        rounds.append((load, transactions))
    ratio = statistics.median(load.rate(202) / tps for load, tps in rounds)
    return {
        "method": f"{CLIENTS} clients, {ROUNDS} rounds of {ROUND_SECONDS} s each in turns; "
        "one API process with sign-in, rate limits, logs and enqueueing on; median of the ratios",
        "requests_per_second": round(statistics.median(load.rate(202) for load, _ in rounds), 1),
        "pgbench_per_second": round(statistics.median(tps for _, tps in rounds), 1),
        "latency_ms_p50": round(statistics.median(load.percentile(0.5) for load, _ in rounds), 2),
        "statuses": {
            str(code): count for load, _ in rounds for code, count in load.statuses.items()
        },
        "ratio": round(ratio, 3),
        "bar": 0.08,
        "goal": 0.15,
        "passed": ratio >= 0.08,
    }


def _post_round(product: Product, people: list[Person], *, seconds: float) -> http_load.Load:
    address = urlsplit(product.api_url)
    assert address.hostname is not None
    assert address.port is not None

    def request_of(person: Person) -> http_load.RequestOf:
        body = json.dumps({"operation": "cutout", "upload_id": str(person.upload_id)}).encode()
        sent = http_load.request("POST", "/v1/generations", token=person.token, body=body)
        return lambda _: sent

    return asyncio.run(
        http_load.closed_loop(
            address.hostname,
            address.port,
            [request_of(person) for person in people[:CLIENTS]],
            seconds=seconds,
        )
    )


def _pgbench_round(product: Product, people: list[Person]) -> float:
    with tempfile.TemporaryDirectory(prefix="jewelshot-bench-") as folder:
        scripts = []
        for number, person in enumerate(people[:CLIENTS]):
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
        "select set_config('role', 'authenticated', true),"
        f" set_config('request.jwt.claims', '{person.claims_json}', true),"
        " set_config('statement_timeout', '8s', true), set_config('app.request_id', 'b', true);\n"
        f"select app.start_generation(gen_random_uuid(), 'cutout', '{person.upload_id}', '{{}}');\n"
        "commit;\n"
    )
