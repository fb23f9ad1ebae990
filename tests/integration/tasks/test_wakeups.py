"""What a transaction adds, it wakes: after COMMIT, and only then."""

import uuid
from collections.abc import AsyncIterator

import pytest
import rq

from core.db import Connection, Database
from core.nouns import queue_of
from core.settings import Settings
from core.tasks import outbox
from core.tasks.queues import Queue
from core.tasks.wakeups import TaskQueue, connect_redis, queue_name, read_note
from tests.harness.database import TestDatabase


class Waked:
    """A database of the worker's role, and what its transactions noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.db: Database

    @property
    def ids(self) -> list[uuid.UUID]:
        return [task.id for note in self.notes for task in read_note(note)[0]]


@pytest.fixture
async def waked(database: TestDatabase) -> AsyncIterator[Waked]:
    made = Waked()
    # As superuser: add_task is granted to nobody, it is called by functions of its owner.
    made.db = Database(database.superuser_url, pool_size=2, name="wakes", wake=made.notes.append)
    await made.db.open()
    yield made
    await made.db.close()


async def add(conn: Connection, key: str, job: str = "toy.polish", delay: float = 2) -> uuid.UUID:
    cursor = await conn.execute("select app.add_task(%s, '{}', %s, %s) as id", (job, key, delay))
    row = await cursor.fetchone()
    assert row is not None
    task_id: uuid.UUID = row["id"]
    return task_id


async def test_a_commit_wakes_what_it_added(waked: Waked) -> None:
    async def work(conn: Connection) -> list[uuid.UUID]:
        made = [await add(conn, "a"), await add(conn, "b", "toy.sell")]
        assert waked.notes == []
        return made

    made = await waked.db.run(work)
    (note,) = waked.notes
    assert [(task.id, task.job) for task in read_note(note)[0]] == [
        (made[0], "toy.polish"),
        (made[1], "toy.sell"),
    ]
    await waked.db.run(lambda conn: conn.execute("select 1"))
    assert len(waked.notes) == 1, "a connection keeps no note of an earlier transaction"


async def test_a_rollback_wakes_nobody(waked: Waked) -> None:
    async def work(conn: Connection) -> None:
        await add(conn, "a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await waked.db.run(work)
    await waked.db.run(lambda conn: conn.execute("select 1"))
    assert waked.notes == []


async def test_what_is_for_later_is_not_woken_now(waked: Waked) -> None:
    await waked.db.run(lambda conn: add(conn, "later", delay=60))
    assert waked.notes == []


async def test_a_large_set_names_its_jobs_only(waked: Waked) -> None:
    async def work(conn: Connection) -> None:
        for number in range(40):
            await add(conn, str(number), "toy.polish" if number < 36 else "toy.sell")

    await waked.db.run(work)
    (note,) = waked.notes
    assert len(waked.ids) == 32
    assert note.split()[32:] == ["toy.polish", "toy.sell"]


async def test_a_note_of_a_savepoint_that_was_taken_back_is_taken_back(waked: Waked) -> None:
    async def work(conn: Connection) -> uuid.UUID:
        kept = await add(conn, "kept")
        async with conn.transaction(force_rollback=True):
            await add(conn, "lost")
        return kept

    assert [await waked.db.run(work)] == waked.ids


async def test_a_queue_that_is_closed_takes_nothing_back(
    settings: Settings, database: TestDatabase
) -> None:
    """The transaction is committed by then, and who asked for it is to hear so."""
    queue = TaskQueue(settings, queue_of)
    await queue.close()
    db = Database(database.superuser_url, pool_size=1, name="wakes", wake=queue.wake)
    await db.open()
    try:
        task_id = await db.run(lambda conn: add(conn, "a"))
    finally:
        await db.close()
    assert database.row("select id from app.outbox")["id"] == task_id


async def test_a_wake_up_reaches_redis(settings: Settings, database: TestDatabase) -> None:
    queue = TaskQueue(settings, queue_of)
    db = Database(database.superuser_url, pool_size=1, name="wakes", wake=queue.wake)
    await db.open()
    try:
        task_id = await db.run(lambda conn: add(conn, "a", "payment.sync"))
        assert await queue.send([])
    finally:
        await db.close()
        await queue.close()
    with connect_redis(settings) as connection:
        waiting = rq.Queue(queue_name(settings, Queue.STRIPE), connection=connection)
        assert waiting.get_job_ids() == [f"{task_id}-0"]


async def test_the_end_of_a_task_is_noted_where_its_effect_ended_it(
    settings: Settings, database: TestDatabase
) -> None:
    queue = TaskQueue(settings, queue_of)
    db = Database(database.superuser_url, pool_size=1, name="wakes", wake=queue.wake)
    await db.open()
    try:
        task_id = await db.run(lambda conn: add(conn, "a"))
        task = await db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=60))
        assert task is not None
        assert not queue.take_ended(task.lease_token)
        await db.run(lambda conn: conn.execute("select app.complete_task(%s)", (task.lease_token,)))
        assert queue.take_ended(task.lease_token)
        assert not queue.take_ended(task.lease_token), "told once"
    finally:
        await db.close()
        await queue.close()
    assert database.rows("select from app.outbox") == []
