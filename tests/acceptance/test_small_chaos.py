"""A short storm with a fixed seed: `make chaos` itself, as a person would run it."""

import json
import subprocess
import sys

import pytest

from sandbox.stack.product import ROOT


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fifteen_generations_through_a_storm() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.chaos", "--n", "15", "--seed", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert sum(report["generations"].values()) >= 15
    assert report["disturbances"]["redis_flushes"] == 3
    assert report["disturbances"]["api_kills"] == 2
    assert report["disturbances"]["database_restarts"] == 1
    assert report["disturbances"]["worker_kills"] >= 5
    theirs = report["provider_calls"]["theirs"]["billed"]
    unheard = len(report["provider_calls"]["paid_unheard"])
    assert report["provider_calls"]["paid_ours"] + unheard == theirs
