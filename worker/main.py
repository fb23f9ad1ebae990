"""`python -m worker`: one process, or a supervisor over several (WORKER_PROCESSES)."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from types import FrameType

import structlog
import uvloop

from core import log as logs
from core.settings import Service, Settings, SettingsError, load_settings
from worker.process import run_process

log = structlog.get_logger()

_RESTART_PAUSE_SECONDS = 1.0


class Supervisor:
    """Processes by subprocess, never by fork after a loop started; one that ended is replaced."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopping = False

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        while not self._stopping:
            alive = [child for child in self._children if child.poll() is None]
            if len(alive) < len(self._children):
                log.error("worker.process_died", alive=len(alive))
                time.sleep(_RESTART_PAUSE_SECONDS)
            self._children = alive
            while len(self._children) < self._count and not self._stopping:
                self._children.append(_spawn())
            time.sleep(0.2)
        for child in self._children:
            child.wait()
        return 0

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = True
        for child in self._children:
            if child.poll() is None:
                child.send_signal(number)


def _spawn() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "WORKER_PROCESSES": "1"}
    return subprocess.Popen([sys.executable, "-m", "worker"], env=environment)


def main() -> int:
    try:
        settings: Settings = load_settings(service=Service.WORKER)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  before logging is configured
        return 2
    logs.configure(level=settings.log_level, json=settings.is_production, process="worker")
    if settings.worker_processes > 1:
        return Supervisor(settings.worker_processes).run()
    try:
        uvloop.run(run_process(settings))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  a person reads this
        return 2
    except asyncio.CancelledError:
        return 1
    return 0
