"""`python -m scripts.chaos [--n 500] [--seed S]`: the report is one JSON document on stdout."""

import argparse
import json
import secrets
import signal
import sys
from types import FrameType

from sandbox.stack.errors import StackError
from scripts.chaos.progress import say
from scripts.chaos.run import run_chaos

N_MIN = 8


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--n", type=int, default=500, help="generations (default 500)")
    parser.add_argument("--seed", type=int, default=None, help="repeats orders, kills and faults")
    parser.add_argument("--keep", action="store_true", help="keep the data and the logs")
    arguments = parser.parse_args()
    if arguments.n < N_MIN:
        parser.error(f"--n must be at least {N_MIN}")
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    signal.signal(signal.SIGTERM, _interrupt)
    say(f"Chaos: {arguments.n} generations, seed {seed}.")
    try:
        report = run_chaos(arguments.n, seed, keep=arguments.keep)
    except StackError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nchaos: stopped", file=sys.stderr)
        return 130
    print(json.dumps(report, indent=2, default=str))
    for violation in report["violations"]:
        say(f"VIOLATION {violation}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
