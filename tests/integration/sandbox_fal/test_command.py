"""The command refuses to start where a stand-in must not run."""

import pytest

from sandbox.fal.__main__ import config_from, main, parse_arguments


def test_refuses_production(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_ENV", "production")

    assert main(["--port", "1"]) == 2
    assert "production" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_refuses_other_addresses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setenv("APP_ENV", "test")

    assert main(["--port", "1", "--host", host]) == 2
    assert "loopback" in capsys.readouterr().err


def test_keys_name_their_account() -> None:
    config = config_from(parse_arguments(["--port", "1", "--key", "a:b=one", "--key", "c:d"]))

    assert config.accounts == {"a:b": "one", "c:d": "default"}
