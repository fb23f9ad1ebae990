"""A short run of `make chaos` with a fixed seed, as a person would start it."""

import json
import subprocess
import sys

import pytest

from sandbox.stack.product import ROOT


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fifteen_generations_while_faults_are_injected() -> None:
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
    assert report["disturbances"]["account_locks"] == 1
    assert report["disturbances"]["keys_revoked"] == 1
    assert report["disturbances"]["worker_kills"] >= 4
    theirs = report["provider_calls"]["theirs"]["billed"]
    unreported = len(report["provider_calls"]["paid_unreported"])
    assert report["provider_calls"]["paid_ours"] + unreported == theirs
