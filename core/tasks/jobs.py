"""What a job is. A noun lists its jobs in `noun.py`; `worker/runner.py` carries them out.

A job is a core function `run(tools, task)`. `tools` is what its noun needs of a worker process, a
Protocol in the same file; the worker's context has all of them. It returns `Done` or `Again`.
Job names and the names of their arguments are wire format: change them by adding a second job.
"""

import dataclasses
import random
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

import msgspec

from core.changes import Change
from core.db import Connection
from core.tasks.outbox import Task
from core.tasks.queues import Queue

Tools_contra = TypeVar("Tools_contra", contravariant=True)


class Done(msgspec.Struct, frozen=True):
    """The job has done what it was for, or there was nothing to do."""


class Again(msgspec.Struct, frozen=True):
    """Not done yet, and nothing is wrong: run again after so many seconds."""

    after_seconds: float


Outcome: TypeAlias = Done | Again

DONE = Done()


class Fence(StrEnum):
    """What keeps the effect of a job that runs twice at once from happening twice."""

    STATE = "state"
    """A state that its own transaction checks decides: a second run changes nothing."""
    LEASE = "lease"
    """Its task ends in the transaction of its effect; a run without the lease writes nothing."""


class Backoff(msgspec.Struct, frozen=True):
    """Seconds before the next try: doubled each time, with jitter, up to the most."""

    seconds: float = 1.0
    seconds_max: float = 60.0

    def pause_seconds(self, failures: int) -> float:
        doubled = self.seconds * 2.0 ** min(failures - 1, 20)
        return min(self.seconds_max, doubled) * random.uniform(0.5, 1)  # noqa: S311  jitter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(Generic[Tools_contra]):
    run: Callable[[Tools_contra, Task], Awaitable[Outcome]]
    queue: Queue
    """What its tasks wait for most."""
    fence: Fence
    when_dead: str
    """What is true of the job's subject once its task is a dead letter, in words for admins."""
    on_dead: Callable[[Connection, Task], Awaitable[Change | None]] | None = None
    """Ends the subject, in a savepoint of the letter's transaction; safe to repeat. Returns what
    it changed, to be published. If it raises, the subject's own deadline ends it."""
    attempts_max: int = 8
    """Failures of its own (`FailureKind.ERROR`) until its task is dead-lettered."""
    backoff: Backoff = Backoff()  # noqa: RUF009  frozen
    lease_seconds: float | None = None
    """None: TASK_LEASE_SECONDS. Renewed while the job runs."""
    deadline_seconds: float = 1_800
    """A job that runs longer hangs: it is cancelled, and has failed once more."""
