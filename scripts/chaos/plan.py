"""What one run is: its size and times, the settings of the product, and the requests."""

import math
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from sandbox.fal.faults import FaultKind

KILL_SECONDS, KILL_SECONDS_TINY = 2.0, 4.0
WORKERS_MIN, WORKERS_MIN_TINY, WORKERS_MAX = 5, 3, 10
# The number of generations below which a run is one of the tests, or one that a person watches.
TINY, SMALL = 30, 100
# A worker that runs for this long after its start finishes tasks.
USEFUL_SECONDS = 8.0
# A worker imports its modules, connects, and starts its pixel process, which imports as well:
# until all of that is done it takes this many times as long as its own imports.
STARTS = 3
FLUSHES, API_KILLS, DATABASE_RESTARTS = 3, 2, 1
ACCOUNT_LOCKS, KEYS_REVOKED = 1, 1
FAULT_RATE = 0.3
PEOPLE = 5
# Two accounts: while one is locked, calls go on at the other.
FAL_KEYS = {
    "FAL_AI_KEY_1": ("chaos-one:first-key", "east"),
    "FAL_AI_KEY_2": ("chaos-two:second-key", "east"),
    "FAL_AI_KEY_3": ("chaos-three:third-key", "west"),
}
LOCKED_ACCOUNT = "west"
REVOKED_KEY = "chaos-one"  # the other key of its account goes on
SLOTS = 24
SWEEP_SECONDS = 2.0
JWT_SECRET = "chaos-only-secret-of-the-local-sandbox-0123456789"  # noqa: S105  a sandbox's own

SHARES = {"cutout": 44, "packshot": 24, "scene": 14, "upscale": 12, "scene_hd": 6}
PRESETS = ("marble", "velvet")  # few: the sandbox computes each picture once

# Faults that would otherwise last longer than a compressed run.
FAULT_ARGS: Mapping[FaultKind, dict[str, Any]] = {
    FaultKind.DELAY_SUBMIT: {"seconds": 3},
    FaultKind.DELAY_RUN: {"seconds": 6},
    FaultKind.RATE_LIMITED: {"retry_after": 2},
    FaultKind.WEBHOOK_LATE: {"seconds": 8},
    FaultKind.WEBHOOK_REORDERED: {"timeout": 5},
    FaultKind.RESULT_ERROR: {"status": 500},
    FaultKind.LOOKS_LIMITED: {"retry_after": 2},
    FaultKind.LOOKS_SILENT: {"seconds": 6},
    FaultKind.FILE_AWAY: {"seconds": 5},
    FaultKind.STATUS_404: {"after": 1},
}


class Request(msgspec.Struct, frozen=True):
    """One generation that a client requests, `at` seconds after the start."""

    at: float
    operation: str
    params: dict[str, Any]
    priority: str
    # Seconds after the answer; None: never.
    cancel_after: float | None
    is_sent_twice: bool
    is_retried: bool


class Plan(msgspec.Struct, frozen=True):
    n: int
    seed: int
    window_seconds: float
    deadline_seconds: int
    uncertain_seconds: int
    grace_seconds: float
    lease_seconds: float
    submit_seconds: float
    people: int
    workers: int
    kill_seconds: float
    requests: tuple[tuple[Request, ...], ...]

    @property
    def seconds_max(self) -> float:
        """Each generation waits for its turn and then works, as long as its deadline allows for
        each of both; a minute is spare."""
        return self.window_seconds + 2 * self.deadline_seconds + 60

    def settings(self) -> dict[str, str]:
        """Variables of API and workers that differ from the product's defaults."""
        values = {
            "SUPABASE_JWT_SECRET": JWT_SECRET,
            "RATE_LIMIT_USER": "100000/minute",
            "RATE_LIMIT_IP": "100000/minute",
            "PROVIDER_ACCOUNT_SLOTS": str(SLOTS),
            "PROVIDER_SUBMIT_TIMEOUT_SECONDS": str(self.submit_seconds),
            "PROVIDER_AMBIGUOUS_GRACE_SECONDS": str(self.grace_seconds),
            "PROVIDER_BREAKER_SECONDS": "2",
            "PROVIDER_COOLDOWN_SECONDS": "1",
            "PROVIDER_POLL_FIRST_SECONDS": "3",
            "PROVIDER_POLL_SECONDS_MAX": "5",
            "TASK_LEASE_SECONDS": str(self.lease_seconds),
            "SWEEP_TICK_SECONDS": str(SWEEP_SECONDS),
        }
        for name, (key, account) in FAL_KEYS.items():
            values |= {name: key, f"{name}_ACCOUNT": account}
        return values

    def fal_arguments(self) -> list[str]:
        arguments = ["--account-limit", str(SLOTS), "--model-seconds", "1"]
        for key, account in FAL_KEYS.values():
            arguments += ["--key", f"{key}={account}"]
        return arguments


def make_plan(n: int, seed: int, *, start_seconds: float) -> Plan:
    """Two cores carry five requests in three seconds while workers are killed: each kill costs
    2 s of CPU for the start of the next worker (measured 2026-11-22).

    `start_seconds`: how long a worker needs to start here. On a slower or busier machine there are
    more workers, so that each runs for long enough, and fewer requests and kills a second: else the
    starts leave the provider's stand-in no CPU, and orders end by their deadline (27 of 32).
    """
    slowness = min(1.8, max(1.0, start_seconds / 1.5))
    rng = random.Random(seed)  # noqa: S311  a repeatable run, not a secret
    people = 2 if n < TINY else min(PEOPLE, n // 4)
    window = max(12.0, n * 0.6 * slowness)
    is_tiny, is_small = n < TINY, n < SMALL
    kill_seconds = KILL_SECONDS_TINY if is_tiny else KILL_SECONDS * slowness
    retries = max(1, n * 3 // 100)
    requests: list[list[Request]] = [[] for _ in range(people)]
    again = set(rng.sample(range(n - retries), retries))
    for number in range(n - retries):
        at = window * number / (n - retries)
        requests[number % people].append(_request(rng, at, is_retried=number in again))
    return Plan(
        n=n,
        seed=seed,
        window_seconds=window,
        deadline_seconds=round(_deadline_seconds(n) * slowness),
        uncertain_seconds=round((15 if is_small else 40) * slowness),
        grace_seconds=4 if is_small else 10,
        lease_seconds=5 if is_small else 10,
        submit_seconds=7 if is_small else 10,
        people=people,
        workers=_workers(
            start_seconds, kill_seconds, at_least=WORKERS_MIN_TINY if is_tiny else WORKERS_MIN
        ),
        kill_seconds=kill_seconds,
        requests=tuple(tuple(each) for each in requests),
    )


def _deadline_seconds(n: int) -> int:
    """Calls that the provider lost end by it, and workers are killed until then."""
    return 30 if n < TINY else 50 if n < SMALL else 150


def _workers(start_seconds: float, kill_seconds: float, *, at_least: int) -> int:
    """One is killed every few seconds, in turns: the more there are, the longer each runs."""
    wanted = math.ceil((STARTS * start_seconds + USEFUL_SECONDS) / kill_seconds)
    return min(WORKERS_MAX, max(at_least, wanted))


def _request(rng: random.Random, at: float, *, is_retried: bool) -> Request:
    operation = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    return Request(
        at=at,
        operation=operation,
        params=_params(rng, operation),
        priority="batch" if rng.random() < 0.3 else "interactive",
        cancel_after=rng.uniform(0, 4) if rng.random() < 0.05 and not is_retried else None,
        is_sent_twice=rng.random() < 0.08,
        is_retried=is_retried,
    )


def _params(rng: random.Random, operation: str) -> dict[str, Any]:
    match operation:
        case "packshot":
            return {
                "size": rng.choice([1024, 1200]),
                "shadow": rng.choice(["none", "soft"]),
                "aspect_ratio": rng.choice(["1:1", "4:5"]),
                "margin_percent": rng.choice([5, 8, 12]),
            }
        case "scene" | "scene_hd":
            return {"preset": rng.choice(PRESETS), "aspect_ratio": "1:1"}
        case "upscale":
            return {"factor": rng.choice([1.5, 2])}
        case _:
            return {}
