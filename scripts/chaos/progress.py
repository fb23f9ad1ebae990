"""One live line on stderr; a line every few seconds where that is no terminal."""

import asyncio
import sys
import time
from collections import Counter

from scripts.chaos.clients import RetryingClient
from scripts.chaos.fault_injector import FaultInjector

_STATES = (
    "queued",
    "submitting",
    "running",
    "collecting",
    "uncertain",
    "succeeded",
    "failed",
    "cancelled",
)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Progress:
    def __init__(self, total: int, clients: list[RetryingClient], injector: FaultInjector) -> None:
        self._total = total
        self._clients = clients
        self._injector = injector
        self._started = time.monotonic()
        self._is_live = sys.stderr.isatty()

    async def run(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(0.5 if self._is_live else 10)

    def end(self) -> None:
        self._draw()
        if self._is_live:
            say("")

    def _draw(self) -> None:
        states = Counter(
            each["state"] for client in self._clients for each in client.generations.values()
        )
        shown = " ".join(f"{state} {states[state]}" for state in _STATES if states[state])
        seconds = time.monotonic() - self._started
        line = (
            f"{seconds:5.0f} s  {sum(states.values())}/{self._total}  {shown}"
            f"  | workers killed {self._injector.counts['worker_kills']}"
        )
        print(
            f"\r{line:<118.118}" if self._is_live else line,
            end="" if self._is_live else "\n",
            file=sys.stderr,
            flush=True,
        )
