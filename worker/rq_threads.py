"""RQ workers on threads. RQ's own worker expects a process of its own; here it runs on a thread.

What it does otherwise, and why each override is here, was measured with rq 3.0: signal handlers
fail off the main thread, its death penalties cannot interrupt a thread that waits for a future,
an idle worker never checks its stop flag, and after FLUSHALL it is not listed any more. A job is
handed over and forgotten: RQ's own record of it (executions, registries, results) tells nothing
that the outbox does not, and of two deliveries of one task the second found the first one's
record gone, and wrote a traceback about it.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import redis
import structlog
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rq import Queue as RqQueue
from rq import SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty

from core import keepalive
from core.settings import Settings
from core.tasks.queues import Queue
from core.tasks.wakeups import queue_name
from worker.rq_job import TaskJob
from worker.slots import Slots

log = structlog.get_logger()


_IDLE_TTL_SECONDS = 30
# How long a thread waits for a task or a slot before it looks whether it should stop.
_TURN_SECONDS = 2

HandOver = Callable[[Queue, uuid.UUID], object]


class NoDeathPenalty(BaseDeathPenalty):
    """The deadline of a job is in its coroutine; a thread cannot be interrupted."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class ThreadWorker(SimpleWorker):
    """Serves one queue, and takes a slot before it dequeues."""

    death_penalty_class = NoDeathPenalty
    # RQ doubles its pause up to a minute, and would stay away as long again as Redis was.
    max_connection_wait_time = 2.0

    def __init__(
        self,
        *args: Any,
        serves: Queue,
        slots: Slots,
        hand_over: HandOver,
        stopping: threading.Event,
        turn_seconds: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._serves = serves
        self._slots = slots
        self._hand_over = hand_over
        self._stopping = stopping
        self._turn_seconds = turn_seconds

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
            turn = self._turn_seconds
            if self._slots.take(self._serves, timeout_seconds=turn):
                found = None
                try:
                    found = super().dequeue_job_and_maintain_ttl(turn, turn)
                except ValueError as error:  # an id that is no text; RQ removed it from the queue
                    log.error("rq.foreign_job_dropped", reason=type(error).__name__)  # noqa: TRY400  nothing to trace
                finally:
                    if found is None:
                        self._slots.give_back(self._serves)
                if found is not None:
                    return found
            else:
                self.heartbeat()
            if not self.connection.sismember(self.redis_workers_keys, self.key):
                self.connection.delete(self.key)
                self.register_birth()  # type: ignore[no-untyped-call]  # rq is half typed
        self._stop_requested = True
        return None

    def execute_job(self, job: Job, queue: RqQueue) -> None:
        """Hands the task over with the slot, and forgets the job: the outbox knows all of it."""
        assert isinstance(job, TaskJob)
        try:
            self._hand_over(self._serves, job.task_id)
        except BaseException:
            self._slots.give_back(self._serves)
            raise
        # Lost with Redis or this process, it costs RQ's maintenance a look.
        with contextlib.suppress(redis.RedisError), self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.delete(job.key)
            pipeline.execute()


class WorkerThreads:
    """An RQ thread for each queue; one that ended (Redis was away) is replaced."""

    def __init__(
        self,
        settings: Settings,
        queues: Sequence[Queue],
        *,
        slots: Slots,
        hand_over: HandOver,
        turn_seconds: int = _TURN_SECONDS,
    ) -> None:
        """`hand_over` is called on a queue's thread with the id of each task that is to be done;
        the slot that the thread took for it is then the task's."""
        self._settings = settings
        self._slots = slots
        self._hand_over = hand_over
        self._turn_seconds = turn_seconds
        self._stopping = threading.Event()
        self._threads: dict[Queue, threading.Thread | None] = dict.fromkeys(queues)
        logging.getLogger("rq.worker").setLevel(logging.WARNING)

    def ensure_running(self) -> int:
        """Starts what is missing; returns how many were started."""
        if self._stopping.is_set():
            return 0
        missing = [
            queue
            for queue, thread in self._threads.items()
            if thread is None or not thread.is_alive()
        ]
        for queue in missing:
            thread = threading.Thread(
                target=self._work, args=(queue,), name=f"rq {queue}", daemon=True
            )
            thread.start()
            self._threads[queue] = thread
        return len(missing)

    def stop(self) -> None:
        """No new jobs; a job that runs goes on to its end."""
        self._stopping.set()

    def join(self, *, timeout_seconds: float) -> bool:
        """True when every thread has ended."""
        threads = [thread for thread in self._threads.values() if thread is not None]
        end = time.monotonic() + timeout_seconds
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _work(self, queue: Queue) -> None:
        connection = redis.Redis.from_url(
            self._settings.redis_url.get_secret_value(),
            retry=Retry(ConstantBackoff(0.2), 3),
            socket_connect_timeout=2,
            socket_timeout=10,
            **keepalive.REDIS,
        )
        try:
            worker = ThreadWorker(
                [
                    RqQueue(
                        queue_name(self._settings, queue),
                        connection=connection,
                        serializer=JSONSerializer,
                        death_penalty_class=NoDeathPenalty,
                        job_class=TaskJob,
                    )
                ],
                connection=connection,
                serializer=JSONSerializer,
                job_class=TaskJob,
                serves=queue,
                slots=self._slots,
                hand_over=self._hand_over,
                stopping=self._stopping,
                turn_seconds=self._turn_seconds,
                log_job_description=False,
            )
            worker.work(logging_level="WARNING")
        except redis.RedisError as error:
            log.warning("rq.thread_ended", queue=queue, error=type(error).__name__)
        finally:
            connection.close()
