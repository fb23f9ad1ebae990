"""Workers as an operator sees them: they stop when told, die without harm, and show up in rq."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.acceptance.shop import Shop

# The first test of a process also starts the product.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_stop_leaves_nothing_half_done(shop: Shop) -> None:
    """SIGTERM while a submit waits for its answer: it is recorded, and another worker goes on."""
    shop.misbehave({"kind": "delay_submit", "times": 1, "args": {"seconds": 3}})
    worker = shop.start_worker()
    async with shop.shopper() as shopper:
        slow = await shop.start(shopper, "cutout")
        shop.wait("submit on its way", shop.has_misbehaved)
        others = [await shop.start(shopper, "cutout") for _ in range(4)]
        assert shop.wait_ended(worker, signal.SIGTERM, seconds=20) < 20
        assert worker.exit_code == 0
        (call,) = shop.calls(slow)
        assert call["state"] != "submitting"
        assert call["request_id"] is not None
        assert shop.rows("select 1 from app.outbox where lease_until > now()") == []
        assert shop.rows("select 1 from app.worker_heartbeats where pid = %s", worker.pid) == []
        with shop.worker():
            done = [await shop.finish(shopper, each) for each in (slow, *others)]
    assert [each["state"] for each in done] == ["succeeded"] * 5
    assert len(shop.ledger()) == 5


async def test_a_killed_worker_costs_a_lease_and_no_image(shop: Shop) -> None:
    """SIGKILL in the middle of the POST: the webhook names the call, and nothing is paid twice."""
    shop.misbehave({"kind": "delay_submit", "times": 1, "args": {"seconds": 1}})
    worker = shop.start_worker()
    async with shop.shopper() as shopper:
        started = await shop.start(shopper, "cutout")
        shop.wait("submit on its way", shop.has_misbehaved)
        worker.kill()
        assert shop.calls(started)[0]["state"] == "submitting"
        with shop.worker():
            done = await shop.finish(shopper, started)
    assert done["state"] == "succeeded"
    assert len(shop.calls(started)) == len(shop.ledger()) == 1


async def test_work_is_taken_while_redis_is_away(shop: Shop) -> None:
    valkey = shop.product.stack.valkey
    with shop.worker() as worker:
        shop.wait_started(worker)
        async with shop.shopper() as shopper:
            valkey.stop()
            try:
                started = await shop.start(shopper, "cutout")
            finally:
                valkey.start()
            done = await shop.finish(shopper, started)
    assert done["state"] == "succeeded"


def _rq_info(shop: Shop) -> str:
    url = shop.product.environ()["REDIS_URL"]
    command = [str(Path(sys.executable).with_name("rq")), "info", "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def _flush(shop: Shop) -> None:
    with redis.Redis.from_url(shop.product.stack.valkey.url()) as connection:
        connection.flushall()


async def test_rq_sees_workers_and_queues(shop: Shop) -> None:
    """Also after a flush: rq itself lists a worker only at its birth."""
    _flush(shop)  # workers that other tests killed
    with shop.worker(WORKER_THREADS="3"):
        shop.wait("three workers", lambda: "3 workers" in _rq_info(shop))
        _flush(shop)
        shop.wait("three workers again", lambda: "3 workers" in _rq_info(shop))
        async with shop.shopper() as shopper:
            started = [await shop.start(shopper, "cutout") for _ in range(3)]
            done = [await shop.finish(shopper, each) for each in started]
        assert [each["state"] for each in done] == ["succeeded"] * 3
        assert "jewelshot-interactive" in _rq_info(shop)
