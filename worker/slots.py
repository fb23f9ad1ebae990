"""How many tasks of each queue a process runs at once.

A slot is taken on the queue's RQ thread before it dequeues, and given back on the event loop when
the task has ended. What is not dequeued stays in Redis, for a process that has a slot free.
"""

import threading

from core.settings import Settings
from core.tasks.queues import Queue


class Slots:
    def __init__(self, settings: Settings) -> None:
        self._free = {
            queue: threading.BoundedSemaphore(slots_of(settings, queue)) for queue in Queue
        }

    def take(self, queue: Queue, *, timeout_seconds: float) -> bool:
        """False when none was free in time. Blocks its thread."""
        return self._free[queue].acquire(timeout=timeout_seconds)

    def give_back(self, queue: Queue) -> None:
        self._free[queue].release()


def slots_of(settings: Settings, queue: Queue) -> int:
    count: int = getattr(settings, f"worker_slots_{queue}")
    return count
