"""RQ workers on threads. RQ's own worker expects a process of its own; here it runs on a thread.

What it does otherwise, and why each override is here, was measured with rq 3.0: signal handlers
fail off the main thread, its death penalties cannot interrupt a thread that waits for a future,
an idle worker never checks its stop flag, and after FLUSHALL it is not listed any more.
"""

import logging
import threading
import uuid
from collections.abc import Callable
from typing import Any

import redis
import structlog
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty

from core.settings import Settings
from core.tasks.outbox import QUEUES
from core.tasks.wakeups import queue_name
from worker.rq_job import job_class

log = structlog.get_logger()


_IDLE_TTL_SECONDS = 30


class NoDeathPenalty(BaseDeathPenalty):
    """The deadline of a job is in its coroutine; a thread cannot be interrupted."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class ThreadWorker(SimpleWorker):
    death_penalty_class = NoDeathPenalty

    def __init__(self, *args: Any, stopping: threading.Event, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stopping = stopping

    def _install_signal_handlers(self) -> None:
        """The process's main thread has them."""

    def subscribe(self) -> None:
        """No command channel: `rq` can show a worker, but only signals stop it."""

    def unsubscribe(self) -> None:
        pass

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Shorter than RQ's eight minutes, for which it would still list a killed worker."""
        super().heartbeat(timeout or _IDLE_TTL_SECONDS, pipeline)

    def dequeue_job_and_maintain_ttl(
        self,
        timeout: int | None,  # noqa: ARG002  RQ's signature
        max_idle_time: int | None = None,  # noqa: ARG002  RQ's signature
    ) -> Any:
        """Waits in short turns, so that a stop is seen and a flushed registration is renewed."""
        while not self._stopping.is_set():
            try:
                found = super().dequeue_job_and_maintain_ttl(1, 1)
            except ValueError as error:  # an id that is no text; RQ has removed it from the queue
                log.error("rq.foreign_job_dropped", reason=type(error).__name__)  # noqa: TRY400  nothing to trace
                continue
            if found is not None:
                return found
            if not self.connection.sismember(self.redis_workers_keys, self.key):
                self.connection.delete(self.key)
                self.register_birth()  # type: ignore[no-untyped-call]  # rq is half typed
        self._stop_requested = True
        return None


class WorkerThreads:
    """A fixed number of RQ threads; one that ended (Redis was away) is replaced."""

    def __init__(
        self, settings: Settings, *, count: int, hand_over: Callable[[uuid.UUID], object]
    ) -> None:
        """`hand_over` is called on a thread with the id of each task that is to be done."""
        self._settings = settings
        self._count = count
        self._job_class = job_class(hand_over)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        logging.getLogger("rq.worker").setLevel(logging.WARNING)

    def ensure_running(self) -> int:
        """Starts what is missing; returns how many were started."""
        if self._stopping.is_set():
            return 0
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        missing = self._count - len(self._threads)
        for _ in range(missing):
            thread = threading.Thread(target=self._work, name="rq", daemon=True)
            thread.start()
            self._threads.append(thread)
        return missing

    def stop(self) -> None:
        """No new jobs; a job that runs goes on to its end."""
        self._stopping.set()

    def join(self, *, timeout_seconds: float) -> bool:
        """True when every thread has ended."""
        for thread in self._threads:
            thread.join(timeout_seconds / max(1, len(self._threads)))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        connection = redis.Redis.from_url(
            self._settings.redis_url.get_secret_value(),
            retry=Retry(ConstantBackoff(0.2), 3),
            socket_connect_timeout=2,
            socket_timeout=10,
            socket_keepalive=True,
        )
        try:
            queues = [
                Queue(
                    queue_name(self._settings, name),
                    connection=connection,
                    serializer=JSONSerializer,
                    death_penalty_class=NoDeathPenalty,
                    job_class=self._job_class,
                )
                for name in QUEUES
            ]
            worker = ThreadWorker(
                queues,
                connection=connection,
                serializer=JSONSerializer,
                job_class=self._job_class,
                stopping=self._stopping,
                log_job_description=False,
            )
            worker.work(logging_level="WARNING")
        except redis.RedisError as error:
            log.warning("rq.thread_ended", error=type(error).__name__)
        finally:
            connection.close()
