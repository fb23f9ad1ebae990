"""The time that an idle product adds to the model's own: before the submit and after the end.

All times are of this machine's clock: those of the client, and those of the sandbox's ledger.
"""

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg

from sandbox.stack.product import Product
from scripts.bench import stage
from scripts.bench.people import make_people
from scripts.people import Person

SAMPLES = 30
MODEL_SECONDS = 1
SUBMIT_MS_BAR, DELIVER_MS_BAR = 25, 80
SUBMIT_MS_GOAL, DELIVER_MS_GOAL = 10, 30
_WARM_UP = 3  # pools, plans and the pixel process


class Times(msgspec.Struct, frozen=True):
    """When one generation was accepted and succeeded for the client, in seconds of the epoch."""

    generation_id: str
    accepted_at: float
    succeeded_at: float


def measure(folder: Path) -> dict[str, Any]:
    with stage.bench_product(
        folder, workers=1, fal_arguments=["--model-seconds", str(MODEL_SECONDS)]
    ) as product:
        stage.deliver_jpeg(product)
        stage.store_photo(product)
        person = make_people(product, 1, jwt_secret=stage.JWT_SECRET, normal_key=stage.PHOTO_KEY)[0]
        times = asyncio.run(_use(product, person))
        calls = _calls(product)
    before = [
        (calls[each.generation_id]["accepted_at"] - each.accepted_at) * 1000 for each in times
    ]
    after = [
        (each.succeeded_at - calls[each.generation_id]["finished_at"]) * 1000 for each in times
    ]
    submit, deliver = statistics.median(before), statistics.median(after)
    return {
        "method": f"{SAMPLES} scenes one after the other, model {MODEL_SECONDS} s, 1024 x 1024 "
        "JPEG; from the 202 at the client to the call's acceptance in the sandbox's ledger, and "
        "from its end there to `succeeded` on the client's event stream",
        "accepted_to_submitted_ms": _percentiles(before),
        "done_to_succeeded_ms": _percentiles(after),
        "bar": {"accepted_to_submitted_ms": SUBMIT_MS_BAR, "done_to_succeeded_ms": DELIVER_MS_BAR},
        "goal": {
            "accepted_to_submitted_ms": SUBMIT_MS_GOAL,
            "done_to_succeeded_ms": DELIVER_MS_GOAL,
        },
        "passed": submit <= SUBMIT_MS_BAR and deliver <= DELIVER_MS_BAR,
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 1),
        "p90": round(ordered[int(0.9 * (len(ordered) - 1))], 1),
    }


async def _use(product: Product, person: Person) -> list[Times]:
    headers = {"Authorization": f"Bearer {person.token}"}
    async with httpx.AsyncClient(base_url=product.api_url, headers=headers, timeout=30) as http:
        times = [await _follow(http, person) for _ in range(_WARM_UP + SAMPLES)]
    return times[_WARM_UP:]


async def _follow(http: httpx.AsyncClient, person: Person) -> Times:
    started = await http.post(
        "/v1/generations", json={**stage.SCENE, "upload_id": str(person.upload_id)}
    )
    accepted_at = time.time()
    assert started.status_code == 202, started.text
    generation_id = started.json()["id"]
    async with http.stream("GET", f"/v1/generations/{generation_id}/events") as stream:
        async for line in stream.aiter_lines():
            if not line.startswith("data:"):
                continue
            state = json.loads(line.removeprefix("data:"))["state"]
            if state == "succeeded":
                return Times(generation_id, accepted_at, time.time())
            assert state not in {"failed", "cancelled"}, line
    raise AssertionError("the stream ended before the generation")


def _calls(product: Product) -> dict[str, dict[str, Any]]:
    """The sandbox's ledger line of each generation's call."""
    ledger = httpx.get(f"{product.fal_url}/__control/ledger").raise_for_status().json()
    by_request = {call["request_id"]: call for call in ledger["calls"]}
    with psycopg.connect(product.stack.postgres.url()) as conn:
        rows = conn.execute("select generation_id, request_id from app.provider_calls").fetchall()
    return {str(generation_id): by_request[request_id] for generation_id, request_id in rows}
