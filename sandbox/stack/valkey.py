"""A local Valkey: one process, loopback only, with a generated password."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import psutil
import redis

from sandbox.stack import binaries, process
from sandbox.stack.errors import StackError
from sandbox.stack.passwords import Passwords
from sandbox.stack.ports import LOOPBACK, free_port

_PROGRAM = "valkey-server"
_START_SECONDS = 15


class EmbeddedValkey:
    """Owns `directory`: configuration, log, password and, if `durable`, the data."""

    def __init__(self, directory: Path, port: int | None = None, *, durable: bool = True) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / "valkey.log"
        self._wanted_port = port
        self._port = port
        self._durable = durable
        self._passwords = Passwords(self.directory / "passwords.json")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        if self._port is None:
            raise StackError("Valkey has not been started")
        return self._port

    @property
    def password(self) -> str:
        return self._passwords.get("default")

    def url(self, database: int = 0) -> str:
        return f"redis://default:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start, and return when it answers. One that an earlier process left is ended first."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.stop()
        for _ in range(5):
            self._port = self._wanted_port or self._port or free_port()
            if self._launch():
                return
            if self._wanted_port is None:
                self._port = None
        raise StackError(f"Valkey did not start; the end of {self.log}:\n{self._log_tail()}")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would: nothing is saved."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Same port, same data if durable."""
        self.stop()
        self.start()

    def is_running(self) -> bool:
        return self._find() is not None

    def _launch(self) -> bool:
        config = self.directory / "valkey.conf"
        config.touch(mode=0o600)
        config.chmod(0o600)
        config.write_text("\n".join([*self._config(), ""]))
        # The program runs inside its directory, so that the paths in the file need no quoting.
        self._process = subprocess.Popen(
            [binaries.valkey_program(), config.name],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: we stop it in order
        )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return True
            time.sleep(0.01)
        if self._process.poll() is None:
            self.kill()
        self._process = None
        return False

    def _answers(self) -> bool:
        """Whether our own process answers, and not another one on the same port."""
        client = redis.Redis(
            host=LOOPBACK, port=self.port, password=self.password, socket_timeout=2
        )
        try:
            info = client.info("server")
        except redis.RedisError:
            return False
        finally:
            client.close()
        return self._process is not None and info["process_id"] == self._process.pid

    def _config(self) -> list[str]:
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"requirepass {self.password}",
            "daemonize no",
            "pidfile valkey.pid",
            "logfile valkey.log",
            "dir ./",
            "databases 64",
            "appendonly no",
            "maxmemory-policy noeviction",
            "stop-writes-on-bgsave-error no",
        ]
        return [*lines, "save 60 1" if self._durable else 'save ""']

    def _find(self) -> psutil.Process | None:
        return process.find_server(
            self.directory / "valkey.pid", program=_PROGRAM, directory=self.directory
        )

    def _end(self, *signals: signal.Signals) -> None:
        found = self._find()
        if found is not None:
            process.end(found, *signals, patience_seconds=10)
        if self._process is not None:
            self._process.wait(timeout=10)
            self._process = None

    def _log_tail(self) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
