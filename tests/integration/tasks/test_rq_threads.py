"""What RQ does in a worker process, and what it no longer does: each override, on a real Valkey."""

import os
import pickle
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from rq.command import send_shutdown_command
from rq.serializers import JSONSerializer, PickleSerializer
from structlog.testing import capture_logs

from core.settings import Settings
from core.tasks.queues import Queue
from core.tasks.wakeups import RUN_FUNCTION, queue_name
from worker.rq_job import ForeignJob, TaskJob
from worker.rq_threads import ThreadWorker, WorkerThreads
from worker.slots import Slots

WAIT_SECONDS = 10.0


class Threads:
    """A worker's threads on a Valkey of their own, whose tasks are only written down."""

    def __init__(self, settings: Settings, redis: "redis.Redis") -> None:
        self.settings = settings
        self.redis = redis
        self.done: list[uuid.UUID] = []
        self.seconds_per_task = 0.0
        self.endless: set[Queue] = set()
        self.slots = Slots(settings)
        self.threads = self.make()

    def make(self, *queues: Queue) -> WorkerThreads:
        return WorkerThreads(
            self.settings,
            queues or (Queue.DEFAULT,),
            slots=self.slots,
            hand_over=self._hand_over,
            turn_seconds=1,
        )

    def _hand_over(self, queue: Queue, task_id: uuid.UUID) -> None:
        """A task that ends at once, or one that never ends."""
        time.sleep(self.seconds_per_task)
        self.done.append(task_id)
        if queue not in self.endless:
            self.slots.give_back(queue)

    def queue(self, name: Queue = Queue.DEFAULT, **options: Any) -> rq.Queue:
        options = {"serializer": JSONSerializer} | options
        return rq.Queue(queue_name(self.settings, name), connection=self.redis, **options)

    def wake(self, queue: Queue = Queue.DEFAULT, **options: Any) -> uuid.UUID:
        """As the product does it."""
        task_id = uuid.uuid4()
        options = {"timeout": 600, "result_ttl": 0, "failure_ttl": 3600} | options
        self.queue(queue).enqueue_call(
            RUN_FUNCTION, args=(str(task_id),), job_id=f"{task_id}-0", **options
        )
        return task_id

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end, "it did not come to be in time"
            time.sleep(0.01)

    def until_done(self, task_id: uuid.UUID) -> None:
        self.until(lambda: task_id in self.done)

    def worker_names(self) -> list[str]:
        return [worker.name for worker in rq.Worker.all(connection=self.redis)]

    def the_thread(self) -> threading.Thread:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "rq default"]
        return thread


@pytest.fixture
def threads(make_settings: Callable[..., Settings], redis_url: str) -> Iterator[Threads]:
    with redis.Redis.from_url(redis_url) as client:
        made = Threads(make_settings(redis_url=redis_url), client)
        made.threads.ensure_running()
        made.until(made.worker_names)
        yield made
        made.threads.stop()
        assert made.threads.join(timeout_seconds=WAIT_SECONDS)


# --- what a job may be ---------------------------------------------------------------------------


def _call(function: str, *args: Any, **options: Any) -> Callable[[Threads], object]:
    return lambda threads: threads.queue().enqueue_call(function, args=args, **options)


def _fields(**fields: str) -> Callable[[Threads], object]:
    """A proper wake-up with something added to it."""

    def put(threads: Threads) -> None:
        task_id = uuid.uuid4()
        job = rq.job.Job.create(
            RUN_FUNCTION,
            args=(str(task_id),),
            id=f"{task_id}-0",
            connection=threads.redis,
            serializer=JSONSerializer,
            origin=threads.queue().name,
        )
        job.save()
        for name, value in fields.items():
            threads.redis.hset(job.key, name, value)
        threads.redis.rpush(threads.queue().key, job.id)

    return put


def _raw(data: bytes, job_id: str = "raw") -> Callable[[Threads], object]:
    def put(threads: Threads) -> None:
        threads.redis.hset(f"rq:job:{job_id}", mapping={"data": data, "status": "queued"})
        threads.redis.rpush(threads.queue().key, job_id)

    return put


class _Bomb:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.mark,))


def _foreign(mark: str) -> dict[str, Callable[[Threads], object]]:
    """Each would make the folder `mark` in a worker that believes what Redis says."""
    task = str(uuid.uuid4())
    return {
        "another function": _call("os.mkdir", mark),
        "another of ours": _call("core.ids.new_id"),
        "two arguments": _call(RUN_FUNCTION, task, mark),
        "no argument": _call(RUN_FUNCTION),
        "no task": _call(RUN_FUNCTION, mark),
        "a named argument": lambda threads: threads.queue().enqueue_call(
            RUN_FUNCTION, kwargs={"outbox_id": task}
        ),
        "a method": _raw(zlib.compress(b'["mkdir", "os", ["x"], {}]')),
        "a pickle": lambda threads: threads.queue(serializer=PickleSerializer).enqueue_call(
            os.mkdir, args=(mark,)
        ),
        "a pickle that acts": _raw(zlib.compress(pickle.dumps(_Bomb(mark)))),
        "not compressed": _raw(f'["{RUN_FUNCTION}", null, ["{task}"], {{}}]'.encode()),
        "much in little": _raw(zlib.compress(b'["' + b"x" * 200_000_000 + b'"]')),
        "nested": _raw(zlib.compress(b"[" * 900)),
        "no job": _raw(b"junk"),
        "an id of another kind": _raw(b"junk", "../../etc"),
        "on success": _fields(success_callback_name="os.mkdir"),
        "on failure": _fields(failure_callback_name="os.mkdir"),
        "when stopped": _fields(stopped_callback_name="os.mkdir"),
        "a dependency": _fields(dependency_ids='["another"]'),
        "a webhook": _fields(webhooks='[{"url": "http://127.0.0.1:9/"}]'),
        "a repetition": _fields(repeats_left="5", repeat_intervals="[0]"),
        "a retry": _fields(retries_left="5"),
        "a limit": _fields(rate_limit_key="x", rate_limit_concurrency="1"),
        "what may come": _fields(a_feature_of_a_later_rq="os.mkdir"),
        "odd times": _fields(enqueued_at="never"),
        "an odd state": _fields(status="os.mkdir"),
    }


def test_only_the_wake_up_of_one_task_is_done(threads: Threads, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    thread = threads.the_thread()
    seen: dict[str, str] = {}
    for kind, put in _foreign(str(mark)).items():
        with capture_logs() as lines:
            put(threads)
            task_id = threads.wake()
            threads.until_done(task_id)
        assert not mark.exists(), kind
        assert threads.done.pop() == task_id, kind
        assert threads.done == [], kind
        (alarm,) = [line for line in lines if line["log_level"] == "error"]
        assert alarm["event"] == "rq.foreign_job_dropped", kind
        assert str(mark) not in str(alarm), kind
        seen[kind] = alarm["reason"]
    assert set(seen.values()) == set(ForeignJob)
    assert seen["another function"] == seen["another of ours"] == ForeignJob.FUNCTION
    assert seen["a webhook"] == seen["what may come"] == ForeignJob.FIELD
    threads.until(lambda: not threads.redis.keys("rq:job:*"))
    assert thread.is_alive(), "nobody ends a thread by what they write"


def test_an_id_that_is_no_text_costs_nothing(threads: Threads) -> None:
    thread = threads.the_thread()
    threads.redis.rpush(threads.queue().key, b"\xff\xfe")
    threads.until_done(threads.wake())
    assert thread.is_alive()


def test_what_waits_for_a_task_is_not_taken_along(threads: Threads, tmp_path: Path) -> None:
    """A stranger's job that claims to depend on one of ours."""
    mark = tmp_path / "mark"
    threads.seconds_per_task = 0.5
    task_id = threads.wake()
    threads.redis.sadd(f"rq:job:{task_id}-0:dependents", "theirs")
    threads.redis.hset(
        "rq:job:theirs",
        mapping={
            "data": zlib.compress(f'["os.mkdir", null, ["{mark}"], {{}}]'.encode()),
            "status": "deferred",
            "origin": threads.queue().name,
            "dependency_ids": f'["{task_id}-0"]',
        },
    )
    threads.until_done(task_id)
    threads.until_done(threads.wake())
    assert not mark.exists()
    assert threads.redis.hget("rq:job:theirs", "status") == b"deferred", "nobody released it"


def test_what_a_dead_worker_left_calls_nobody_back(threads: Threads, tmp_path: Path) -> None:
    """RQ's own maintenance runs the failure callback of a job whose worker is gone."""
    threads.threads.stop()
    assert threads.threads.join(timeout_seconds=WAIT_SECONDS)
    mark = tmp_path / "mark"
    put = _fields(failure_callback_name="os.mkdir", status="started", description=str(mark))
    put(threads)
    (job_id,) = threads.queue().job_ids
    threads.redis.delete(threads.queue().key)
    threads.redis.zadd(f"rq:wip:{threads.queue().name}", {f"{job_id}:1": 1})
    worker = rq.SimpleWorker(
        [threads.queue(job_class=TaskJob)],
        connection=threads.redis,
        serializer=JSONSerializer,
        job_class=TaskJob,
    )
    worker.clean_registries()  # type: ignore[no-untyped-call]  # rq is half typed
    assert not threads.redis.exists(f"rq:job:{job_id}")
    assert not mark.exists()


# --- an RQ worker on a thread --------------------------------------------------------------------


def test_tasks_are_done_and_leave_nothing(threads: Threads) -> None:
    wanted = [threads.wake() for _ in range(20)]
    threads.until(lambda: len(threads.done) == 20)
    assert threads.done == wanted
    threads.until(lambda: not threads.redis.keys("rq:job:*"))
    assert not threads.redis.keys("rq:results:*")


def test_a_queue_without_a_free_slot_holds_no_other_up(
    make_settings: Callable[..., Settings], redis_url: str
) -> None:
    """What is beyond its slots stays in Redis, for a process that has some free."""
    with redis.Redis.from_url(redis_url) as client:
        made = Threads(make_settings(redis_url=redis_url, worker_slots_stripe=3), client)
        made.endless.add(Queue.STRIPE)
        both = made.make(Queue.STRIPE, Queue.PIXELS)
        both.ensure_running()
        try:
            waiting = [made.wake(Queue.STRIPE) for _ in range(5)]
            made.until(lambda: len(made.done) == 3)
            others = [made.wake(Queue.PIXELS) for _ in range(20)]
            made.until(lambda: len(made.done) == 3 + 20)
            assert made.done == waiting[:3] + others
            assert made.queue(Queue.STRIPE).job_ids == [f"{each}-0" for each in waiting[3:]]
            made.slots.give_back(Queue.STRIPE)
            made.until_done(waiting[3])
        finally:
            both.stop()
            assert both.join(timeout_seconds=WAIT_SECONDS)


def test_a_second_delivery_is_silent(
    threads: Threads, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The same wake-up is often in Redis twice: the commit's, and the relay's a moment later."""
    second = threads.make()
    threads.seconds_per_task = 0.05
    second.ensure_running()
    try:
        with capture_logs() as lines:
            for _ in range(20):
                task_id = threads.wake()
                threads.queue().push_job_id(f"{task_id}-0")
            threads.until(lambda: not threads.queue().job_ids)
            threads.until_done(threads.wake())
    finally:
        second.stop()
        assert second.join(timeout_seconds=WAIT_SECONDS)
    assert len(set(threads.done)) == 21
    assert [line for line in lines if line["log_level"] != "info"] == []
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_task_may_take_longer_than_rq_allows(threads: Threads) -> None:
    """Its deadline is in its coroutine. RQ's could not end it, and would count it as failed."""
    threads.seconds_per_task = 1.6
    task_id = threads.wake(timeout=1)
    threads.until_done(task_id)
    threads.until(lambda: not threads.redis.keys("rq:job:*"))
    assert not threads.redis.exists(f"rq:failed:{threads.queue().name}")


def test_it_listens_to_no_orders_in_redis(threads: Threads) -> None:
    (name,) = threads.worker_names()
    assert threads.redis.pubsub_channels("rq:*") == []
    send_shutdown_command(threads.redis, name)
    threads.until_done(threads.wake())


def test_a_killed_worker_is_soon_off_the_list(threads: Threads) -> None:
    (name,) = threads.worker_names()
    assert 0 < threads.redis.ttl(f"rq:worker:{name}") <= 30


def test_after_a_flush_it_is_on_the_list_again(threads: Threads) -> None:
    threads.redis.flushall()
    threads.until(threads.worker_names)
    threads.until_done(threads.wake())


def test_an_idle_thread_ends_when_it_is_told(threads: Threads) -> None:
    began = time.monotonic()
    threads.threads.stop()
    assert threads.threads.join(timeout_seconds=5)
    assert time.monotonic() - began < 4
    assert threads.worker_names() == []
    assert threads.threads.ensure_running() == 0


def test_a_task_in_hand_is_finished_first(threads: Threads) -> None:
    threads.seconds_per_task = 0.5
    task_id = threads.wake()
    threads.until(lambda: not threads.queue().job_ids)
    second = threads.wake()
    threads.threads.stop()
    assert threads.threads.join(timeout_seconds=5)
    assert threads.done == [task_id]
    assert threads.queue().job_ids == [f"{second}-0"]


def test_it_is_back_as_soon_as_redis_is() -> None:
    """RQ's own pause would grow to a minute, in which it also misses its stop."""
    assert ThreadWorker.max_connection_wait_time <= 2


def test_a_thread_that_ended_is_replaced(threads: Threads) -> None:
    """RQ gives up its loop at the first error that it does not know."""
    thread = threads.the_thread()
    assert threads.threads.ensure_running() == 0
    threads.redis.set(threads.queue().key, "no list")
    threads.until(lambda: not thread.is_alive())
    threads.redis.delete(threads.queue().key)
    assert threads.threads.ensure_running() == 1
    threads.until_done(threads.wake())
