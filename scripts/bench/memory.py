"""Memory of a process and its children, counted so that shared pages count once."""

import threading
import time
from pathlib import Path
from typing import Self

import psutil

MIB = 1024 * 1024


def tree(pid: int) -> list[psutil.Process]:
    """The process and all it started; those that end meanwhile are passed over."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def own_mib(process: psutil.Process) -> float:
    """Proportional set size where the kernel tells it, unique set size elsewhere."""
    try:
        return _proportional_mib(process.pid)
    except OSError:
        try:
            return float(process.memory_full_info().uss / MIB)
        except psutil.Error:
            return 0.0


def _proportional_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


class MemoryWatch:
    """Samples a process group while a measurement runs."""

    _EVERY_SECONDS = 1.0

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._samples: list[float] = []
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak_mib(self) -> float:
        return max(self._samples, default=0.0)

    def _sample(self) -> None:
        while not self._ended.is_set():
            self._samples.append(sum(own_mib(process) for process in tree(self._pid)))
            time.sleep(self._EVERY_SECONDS)
