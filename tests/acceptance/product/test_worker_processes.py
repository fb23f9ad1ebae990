"""Workers for an operator: they stop on a signal, may be killed, and are listed by rq."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.harness.product import ProductHarness
from worker.registry import QUEUES

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_stop_leaves_nothing_half_done(product: ProductHarness) -> None:
    """SIGTERM while a submit waits for its answer: it is recorded, and another worker goes on."""
    product.misbehave({"kind": "delay_submit", "times": 1, "args": {"seconds": 3}})
    worker = product.start_worker()
    async with product.client() as client:
        slow = await product.start(client, "cutout")
        product.wait("submit on its way", product.has_misbehaved)
        others = [await product.start(client, "cutout") for _ in range(4)]
        assert product.wait_ended(worker, signal.SIGTERM, seconds=20) < 20
        assert worker.exit_code == 0
        (call,) = product.calls(slow)
        assert call["state"] != "submitting"
        assert call["request_id"] is not None
        assert product.rows("select 1 from app.outbox where lease_until > now()") == []
        assert product.rows("select 1 from app.worker_heartbeats where pid = %s", worker.pid) == []
        with product.worker():
            done = [await product.finish(client, each) for each in (slow, *others)]
    assert [each["state"] for each in done] == ["succeeded"] * 5
    assert len(product.ledger()) == 5


async def test_a_killed_worker_costs_a_lease_and_no_image(product: ProductHarness) -> None:
    """SIGKILL in the middle of the POST: the webhook names the call, and nothing is paid twice."""
    product.misbehave({"kind": "delay_submit", "times": 1, "args": {"seconds": 1}})
    worker = product.start_worker()
    async with product.client() as client:
        started = await product.start(client, "cutout")
        product.wait("submit on its way", product.has_misbehaved)
        worker.kill()
        assert product.calls(started)[0]["state"] == "submitting"
        with product.worker():
            done = await product.finish(client, started)
    assert done["state"] == "succeeded"
    assert len(product.calls(started)) == len(product.ledger()) == 1


async def test_work_is_taken_while_redis_is_away(product: ProductHarness) -> None:
    valkey = product.processes.stack.valkey
    with product.worker() as worker:
        product.wait_started(worker)
        async with product.client() as client:
            valkey.stop()
            try:
                started = await product.start(client, "cutout")
            finally:
                valkey.start()
            done = await product.finish(client, started)
    assert done["state"] == "succeeded"


def _rq_info(product: ProductHarness) -> str:
    url = product.processes.environ()["REDIS_URL"]
    command = [str(Path(sys.executable).with_name("rq")), "info", "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def _flush(product: ProductHarness) -> None:
    with redis.Redis.from_url(product.processes.stack.valkey.url()) as connection:
        connection.flushall()


async def test_rq_sees_workers_and_queues(product: ProductHarness) -> None:
    """Also after a flush: rq itself lists a worker only at its birth."""
    _flush(product)  # workers that other tests killed
    listed = f"{len(QUEUES)} workers"
    with product.worker():
        product.wait("one for each queue", lambda: listed in _rq_info(product))
        _flush(product)
        product.wait("one for each again", lambda: listed in _rq_info(product))
        async with product.client() as client:
            started = [await product.start(client, "cutout") for _ in range(3)]
            done = [await product.finish(client, each) for each in started]
        assert [each["state"] for each in done] == ["succeeded"] * 3
        assert "jewelshot-provider" in _rq_info(product)
