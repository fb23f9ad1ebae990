import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.sandbox_fal.support import KEY_A, KEY_B, KEY_OTHER, Fal, Receiver, wait_for

MODEL_SECONDS = 0.05
ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The sandbox as its own process on a real socket."""
    port = free_port()
    command = [sys.executable, "-m", "sandbox.fal", "--port", str(port)]
    command += ["--state-dir", str(tmp_path_factory.mktemp("fal"))]
    for item in (f"{KEY_A}=main", f"{KEY_B}=main", f"{KEY_OTHER}=other"):
        command += ["--key", item]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "APP_ENV": "test"})
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        assert process.poll() is None, "the sandbox did not start"
        try:
            return httpx.get(f"{url}/__control/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(healthy, 30)
        yield url
    finally:
        process.terminate()
        assert process.wait(15) == 0


@pytest.fixture
def fal(sandbox_url: str) -> Iterator[Fal]:
    """A clean sandbox that returns prerendered images at once."""
    client = Fal(sandbox_url)
    client.http.post("/__control/reset")
    client.tune(
        account_limit=10,
        account_limits={},
        model_seconds=MODEL_SECONDS,
        model_seconds_by_endpoint={},
        prerendered=True,
        webhook_schedule_seconds=[0.0, 0.05, 0.1, 0.2],
    )
    yield client
    client.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()
