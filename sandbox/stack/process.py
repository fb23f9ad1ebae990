"""Finding and ending server processes by their pid files, and never another program's.

A pid file can outlive its process (crash, power cut, restarted container), and the number in it
may by then belong to something else. A process is ours only if it runs the expected program in
the expected directory.
"""

import contextlib
import signal
from pathlib import Path

import psutil


def find_server(pid_file: Path, *, program: str, directory: Path) -> psutil.Process | None:
    """The live server that wrote `pid_file`, or None."""
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return process if runs_in(process, program=program, directory=directory) else None


def runs_in(process: psutil.Process, *, program: str, directory: Path) -> bool:
    try:
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.name().startswith(program)
            and Path(process.cwd()) == directory.resolve()
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def end(process: psutil.Process, *signals: signal.Signals, patience_seconds: float) -> None:
    """Send each signal in turn until the process is gone; the last resort is SIGKILL.

    Children count: after a kill they live a moment longer than their parent and hold its files.
    """
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    for number in signals:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        _, family = psutil.wait_procs(family, timeout=patience_seconds)
        if not family:
            return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=patience_seconds)
