"""The worker's side: retries, lost leases, crashes, expiry, dead letters."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from core.errors import LeaseLostError
from core.pixels.pool import PixelPool
from core.storage.supabase import SupabaseStorage
from core.tasks import outbox
from core.tasks.outbox import Task
from core.uploads import processing
from core.uploads.processing import ProcessingTools
from core.uploads.types import UploadId, UploadState
from tests.integration.uploads.conftest import Person, World
from tests.integration.uploads.files import JPEG, RENDERED
from worker import tasks


async def _sent(person: Person) -> UploadId:
    answer = await person.send(JPEG)
    assert answer.status_code == 202, answer.json()
    return UploadId(uuid.UUID(answer.json()["id"]))


async def _claim(world: World, *, lease_seconds: float = 60) -> Task:
    row = world.database.row("select id from app.outbox")
    task = await world.ctx.db.run(
        lambda conn: outbox.claim(conn, row["id"], lease_seconds=lease_seconds)
    )
    assert task is not None
    return task


def _expire_leases(world: World) -> None:
    world.database.rows("update app.outbox set lease_until = now() - interval '1 s'")


async def _finish_by(world: World, outcome: str) -> None:
    """Run the one task until it ends so, as if every backoff had passed."""
    outcomes: list[str] = []
    for _ in range(tasks.ATTEMPTS_MAX):
        row = world.database.row("select id from app.outbox")
        outcomes.append(await tasks.execute(world.ctx, row["id"]))
        if outcomes[-1] != "retry":
            break
    assert outcomes[-1] == outcome, outcomes


async def test_trouble_of_the_store_is_tried_again(world: World, ada: Person) -> None:
    await _sent(ada)
    await world.fault(path_contains="/object/uploads/", method="GET", times=2)
    row = world.database.row("select id from app.outbox")
    assert await tasks.execute(world.ctx, row["id"]) == "retry"
    assert [upload["state"] for upload in world.uploads()] == ["stored"]
    await world.fault(path_contains="/thumb.", method="POST", times=2)
    assert await tasks.execute(world.ctx, row["id"]) == "retry"
    assert await tasks.execute(world.ctx, row["id"]) == "done"
    upload = world.uploads()[0]
    assert upload["state"] == "ready"
    assert world.files_of(upload["id"]) == ["normal", "original", "thumb"]
    assert world.task_jobs() == ["upload.erase"]
    await world.fault(path_contains="/object/uploads", method="DELETE", times=2)
    assert await world.work() == ["retry", "done"]
    assert world.files_of(upload["id"]) == RENDERED


async def test_an_original_that_is_gone_is_said(world: World, ada: Person) -> None:
    await _sent(ada)
    await world.ctx.storage.delete("uploads", world.stored_keys())
    assert await world.work() == ["done", "done"]
    upload = world.uploads()[0]
    assert (upload["state"], upload["problem"]["code"]) == ("rejected", "original_missing")


async def test_a_dead_letter_rejects_and_erases(world: World, ada: Person) -> None:
    upload_id = await _sent(ada)
    await world.fault(path_contains="/object/uploads/", method="GET", times=None)
    await _finish_by(world, "dead")
    await world.storage_client.delete("/__control/faults")
    await world.work()
    shown = (await ada.get(f"/v1/uploads/{upload_id}")).json()
    assert (shown["state"], shown["problem"]["code"]) == ("rejected", "processing_failed")
    assert world.stored_keys() == []
    assert world.database.row("select job from app.dead_letters")["job"] == "upload.normalise"
    world.database.rows("delete from app.dead_letters")


async def test_two_attempts_at_once_settle_once(world: World, ada: Person) -> None:
    upload_id = await _sent(ada)
    first = await _claim(world)
    _expire_leases(world)
    second = await _claim(world)
    pool = PixelPool(2)
    tools = ProcessingTools(world.ctx.db, world.ctx.storage, pool, "uploads")
    try:
        results: list[Any] = await asyncio.gather(
            *(
                processing.normalise(tools, upload_id, lease_token=task.lease_token)
                for task in (first, second)
            ),
            return_exceptions=True,
        )
    finally:
        await pool.close()
    assert isinstance(results[0], LeaseLostError)
    assert results[1] is UploadState.READY
    assert [upload["state"] for upload in world.uploads()] == ["ready"]
    assert world.task_jobs() == ["upload.erase"]
    assert await world.work() == ["done"]
    assert world.files_of(upload_id) == RENDERED
    assert world.task_jobs() == []


async def test_a_second_delivery_changes_nothing(world: World, ada: Person) -> None:
    await _sent(ada)
    row = world.database.row("select id from app.outbox")
    outcomes = await asyncio.gather(*(tasks.execute(world.ctx, row["id"]) for _ in range(3)))
    assert sorted(outcomes) == ["done", "gone", "gone"]
    assert world.task_jobs() == ["upload.erase"]
    assert await world.work() == ["done"]
    before = world.uploads()
    world.database.rows(
        "insert into app.outbox (job, args) values ('upload.normalise', %s::jsonb)",
        [f'{{"upload_id": "{before[0]["id"]}"}}'],
    )
    assert await world.work() == ["done"]
    assert world.uploads() == before
    assert world.files_of(before[0]["id"]) == RENDERED
    assert world.task_jobs() == []


async def test_a_task_of_an_upload_that_is_gone_ends(world: World, some_id: str) -> None:
    world.database.rows(
        "insert into app.outbox (job, args) values ('upload.normalise', %s::jsonb)",
        [f'{{"upload_id": "{some_id}"}}'],
    )
    assert await world.work() == ["done"]
    assert world.task_jobs() == []


class BuriedMeanwhile(SupabaseStorage):
    """Gives the upload up, as another worker would, while this attempt writes its last bytes."""

    def __init__(self, world: World, task: Task) -> None:
        super().__init__(world.ctx.settings, world.ctx.http)
        self._world = world
        self._task = task

    async def put(self, bucket: str, key: str, data: bytes, content_type: str) -> None:
        if "/thumb." in key:
            token = self._task.lease_token
            await self._world.ctx.db.run(lambda conn: outbox.bury(conn, token, "gave up"))
            assert await self._world.work() == ["done"]
        await super().put(bucket, key, data, content_type)


async def test_an_attempt_that_lost_its_lease_cleans_up_after_itself(
    world: World, ada: Person
) -> None:
    upload_id = await _sent(ada)
    task = await _claim(world)
    tools = ProcessingTools(world.ctx.db, BuriedMeanwhile(world, task), world.ctx.pixels, "uploads")
    with pytest.raises(LeaseLostError):
        await processing.normalise(tools, upload_id, lease_token=task.lease_token)
    assert [upload["state"] for upload in world.uploads()] == ["rejected"]
    assert world.stored_keys() == []
    world.database.rows("delete from app.dead_letters")


async def test_pending_uploads_expire_with_their_bytes(world: World, ada: Person) -> None:
    fresh, old = [(await ada.start_direct(JPEG)).json() for _ in range(2)]
    for direct in (fresh, old):
        await world.put(direct, JPEG)
    kept = await _sent(ada)
    world.database.rows(
        "update app.uploads set created_at = created_at - interval '25 hours',"
        " signed_until = signed_until - interval '25 hours' where id = %s",
        [old["id"]],
    )
    await world.work()
    world.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    assert await world.work() == ["done", "done"]
    states = {str(row["id"]): row["state"] for row in world.uploads()}
    assert states == {fresh["id"]: "pending", old["id"]: "expired", str(kept): "ready"}
    assert not any(old["id"] in key for key in world.stored_keys())
    assert any(fresh["id"] in key for key in world.stored_keys())
    answer = await ada.complete(old["id"])
    assert (answer.status_code, answer.json()["reason"]) == (409, "upload_expired")
    assert world.task_jobs() == []


async def test_more_than_a_batch_expires_in_one_task(world: World, ada: Person) -> None:
    await ada.start_direct(JPEG)
    world.database.rows(
        "insert into app.uploads (id, user_id, storage_key, created_at)"
        " select gen_random_uuid(), user_id, storage_key, now() - interval '2 days'"
        " from app.uploads, generate_series(1, 450)"
    )
    world.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    row = world.database.row("select id from app.outbox")
    assert await tasks.execute(world.ctx, row["id"]) == "done"
    counts = world.database.rows("select state, count(*) from app.uploads group by 1 order by 1")
    assert [(row["state"], row["count"]) for row in counts] == [("expired", 450), ("pending", 1)]
    assert world.task_jobs() == ["upload.erase"] * 450
    world.database.rows("delete from app.outbox")


async def test_what_was_over_long_ago_is_forgotten(world: World, ada: Person) -> None:
    await _sent(ada)
    await world.ctx.storage.delete("uploads", world.stored_keys())
    await world.work()
    world.database.rows("update app.uploads set settled_at = now() - interval '31 days'")
    world.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    assert await world.work() == ["done"]
    assert world.uploads() == []


async def test_erasing_spares_what_is_wanted(world: World, ada: Person) -> None:
    upload_id = await _sent(ada)
    await world.work()
    world.database.rows(
        "insert into app.outbox (job, args) values ('upload.erase', %s::jsonb)",
        [f'{{"upload_id": "{upload_id}", "user_id": "{ada.id}"}}'],
    )
    assert await world.work() == ["done"]
    assert world.files_of(upload_id) == RENDERED
    assert len(world.stored_files()) == 2


class DeletedMeanwhile(SupabaseStorage):
    """Its owner deletes the photo after the task has looked what to spare."""

    def __init__(self, world: World, person: Person, upload_id: UploadId) -> None:
        super().__init__(world.ctx.settings, world.ctx.http)
        self._person = person
        self._upload_id = upload_id

    async def delete(self, bucket: str, keys: Sequence[str]) -> None:
        assert (await self._person.delete(str(self._upload_id))).status_code == 204
        await super().delete(bucket, keys)


async def test_a_photo_deleted_while_its_original_is_erased_goes_wholly(
    world: World, ada: Person
) -> None:
    upload_id = await _sent(ada)
    row = world.database.row("select id from app.outbox")
    assert await tasks.execute(world.ctx, row["id"]) == "done"
    task = await _claim(world)
    assert task.job == "upload.erase"
    storage = DeletedMeanwhile(world, ada, upload_id)
    tools = ProcessingTools(world.ctx.db, storage, world.ctx.pixels, "uploads")
    await processing.erase(
        tools, user_id=uuid.UUID(ada.id), upload_id=upload_id, lease_token=task.lease_token
    )
    assert world.files_of(upload_id) == RENDERED
    assert await world.work() == ["done"]
    assert world.nothing_is_left()
    assert world.task_jobs() == []


async def test_deleting_and_using_at_once_is_one_or_the_other(world: World, ada: Person) -> None:
    for _ in range(5):
        upload_id = await _sent(ada)
        await world.work()
        body = {"operation": "cutout", "upload_id": str(upload_id), "params": {}}
        used, deleted = await asyncio.gather(
            ada.client.post("/v1/generations", json=body, headers=ada.headers),
            ada.delete(str(upload_id)),
        )
        assert (used.status_code, deleted.status_code) in {(202, 409), (404, 204)}
        world.database.rows("delete from app.outbox where job = 'generation.dispatch'")
        await world.work()
