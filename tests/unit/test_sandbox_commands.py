"""The commands of the stand-ins refuse to start where a stand-in must not run."""

from collections.abc import Callable

import pytest

from sandbox.fal import __main__ as fal
from sandbox.stripe import __main__ as stripe

Main = Callable[[list[str]], int]
MAINS = pytest.mark.parametrize("main", [fal.main, stripe.main], ids=["fal", "stripe"])


@MAINS
def test_refuses_production(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], main: Main
) -> None:
    monkeypatch.setenv("APP_ENV", "production")
    assert main(["--port", "1"]) == 2
    assert "production" in capsys.readouterr().err


@MAINS
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_refuses_other_addresses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], main: Main, host: str
) -> None:
    monkeypatch.setenv("APP_ENV", "test")
    assert main(["--port", "1", "--host", host]) == 2
    assert "loopback" in capsys.readouterr().err


def test_keys_of_fal_name_their_account() -> None:
    argv = ["--port", "1", "--key", "a:b=one", "--key", "c:d"]
    config = fal.config_from(fal.parse_arguments(argv))
    assert config.accounts == {"a:b": "one", "c:d": "default"}
