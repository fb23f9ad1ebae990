"""The mailbox, faults, guards, and the stand-in as a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from sandbox.kit.guard import (
    SandboxRefusedError,
    require_loopback,
    require_sandbox_allowed,
)
from sandbox.supabase.app import create_app
from sandbox.supabase.config import SupabaseConfig, encode_config
from sandbox.supabase.serve import free_port
from tests.integration.sandbox_supabase.conftest import PASSWORD, PUBLISHABLE, SECRET, Sandbox


async def test_the_mailbox_is_read_and_emptied_over_http(sandbox: Sandbox) -> None:
    client = await sandbox.supabase()
    for address in ("a@example.com", "b@example.com"):
        await client.auth.sign_up({"email": address, "password": PASSWORD})
    async with sandbox.http() as browser:
        mails = (await browser.get("/__mail?to=A@example.com")).json()
        assert [mail["to"] for mail in mails] == ["a@example.com"]
        assert mails[0]["data"]["link"] in mails[0]["text"]
        assert (await browser.get("/__mail?kind=recovery")).json() == []
        await browser.delete("/__mail?to=a@example.com")
        assert [mail["to"] for mail in (await browser.get("/__mail")).json()] == ["b@example.com"]
        await browser.delete("/__mail")
        assert (await browser.get("/__mail")).json() == []


async def test_faults_strike_as_often_as_they_were_told(sandbox: Sandbox) -> None:
    async with sandbox.http(apikey=PUBLISHABLE) as client:
        fault = {"path_contains": "/storage/", "status": 503, "times": 2}
        assert (await client.post("/__control/faults", json=fault)).is_success
        codes = [(await client.get("/storage/v1/bucket")).status_code for _ in range(3)]
        assert codes == [503, 503, 200]
        lost = {"path_contains": "/signup", "status": 502, "when": "after"}
        await client.post("/__control/faults", json=lost)
        body = {"email": "lost@example.com", "password": PASSWORD}
        answer = await client.post("/auth/v1/signup", json=body)
        assert answer.status_code == 502
        assert sandbox.mailbox.latest(to="lost@example.com")
        await client.post("/__control/faults", json={"times": None})
        await client.delete("/__control/faults")
        assert (await client.get("/auth/v1/health")).status_code == 200


@pytest.mark.parametrize("value", ["production", "PRODUCTION", " prod "])
def test_production_is_refused(
    sandbox_config: SupabaseConfig, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    with pytest.raises(SandboxRefusedError, match="production"):
        require_sandbox_allowed({"APP_ENV": value})
    monkeypatch.setenv("APP_ENV", value)
    with pytest.raises(SandboxRefusedError):
        create_app(sandbox_config)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.com", "::", ""])
def test_outside_addresses_are_refused(host: str) -> None:
    with pytest.raises(SandboxRefusedError):
        require_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_is_allowed(host: str) -> None:
    require_loopback(host)
    require_sandbox_allowed({"APP_ENV": "development"})


def test_an_outside_base_url_is_refused(sandbox_config: SupabaseConfig) -> None:
    outside = msgspec.structs.replace(sandbox_config, base_url="https://abc.supabase.co")
    with pytest.raises(SandboxRefusedError):
        create_app(outside)


def test_a_process_serves_and_stops_on_sigterm(
    sandbox_config: SupabaseConfig, tmp_path: Path
) -> None:
    port = free_port()
    config = msgspec.structs.replace(sandbox_config, base_url=f"http://127.0.0.1:{port}")
    file = tmp_path / "supabase.json"
    file.write_bytes(encode_config(config))
    command = [sys.executable, "-m", "sandbox.supabase", "--config", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ready http://127.0.0.1:{port}\n"
        with httpx.Client(base_url=config.base_url, headers={"apikey": PUBLISHABLE}) as client:
            assert client.get("/auth/v1/health").is_success
            storage, service = "/storage/v1", {"apikey": SECRET}
            client.post(f"{storage}/bucket", json={"name": "b"}, headers=service)
            path = f"{storage}/object/b/a%20b//c/"
            stored = client.post(path, content=b"x" * 2_000_000, headers=service)
            assert stored.json()["Key"] == "b/a b//c/"  # the server leaves the path as it came
            assert len(client.get(path, headers=service).content) == 2_000_000
            body = {"email": "process@example.com", "password": PASSWORD}
            assert client.post("/auth/v1/signup", json=body).json()["identities"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]  # it was asked for


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--config", "/nowhere.json"]])
def test_a_process_that_may_not_start_says_why(
    sandbox_config: SupabaseConfig, tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / "supabase.json"
    file.write_bytes(encode_config(sandbox_config))
    command = [sys.executable, "-m", "sandbox.supabase", "--config", str(file)]
    done = subprocess.run(
        command + arguments,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"APP_ENV": "test"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sandbox: ")
