"""`make bench`: the budgets of the design, measured on this machine, as one JSON document.

Everything runs on this one machine, so the figures compare within a run: each budget is a ratio,
or a time on an idle machine. Progress goes to stderr. Exit 1 when a bar is missed.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.stack.errors import StackError
from scripts.bench import (
    beside,
    deadlines,
    delays,
    growth,
    in_flight,
    pipeline,
    stage,
    submission,
    tickets,
    webhook,
)

Measure = Callable[[Path], dict[str, Any]]

MEASURES: dict[str, Measure] = {
    "submission": submission.measure,
    "webhook": webhook.measure,
    "delays": delays.measure,
    "in_flight": in_flight.measure,
    "pipeline": pipeline.measure,
    "growth": growth.measure,
    "tickets": tickets.measure,
    "deadlines": deadlines.measure,
    "beside": beside.measure,
}


def run(names: list[str]) -> dict[str, Any]:
    started = time.monotonic()
    budgets = {}
    for name in names:
        stage.say(f"{name}:")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="jewelshot-bench-") as folder:
            found = MEASURES[name](Path(folder))
        found["seconds"] = round(time.monotonic() - began, 1)
        stage.say(f"  {'passed' if found['passed'] else 'MISSED'} in {found['seconds']} s")
        budgets[name] = found
    return {
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "budgets": budgets,
        "passed": all(found["passed"] for found in budgets.values()),
        "seconds": round(time.monotonic() - started, 1),
    }


def _interrupt(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does: everything that was started is stopped."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="budget", help=", ".join(MEASURES))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASURES):
        parser.error(f"no budget is called {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        report = run(arguments.names or list(MEASURES))
    except StackError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
