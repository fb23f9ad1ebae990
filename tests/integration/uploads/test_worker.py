"""The worker's side: retries, lost leases, crashes, expiry, dead letters."""

import asyncio
import uuid
from collections.abc import Sequence
from io import FileIO
from typing import Any

import msgspec
import pytest

from core.db import Database
from core.pixels.pool import PixelPool, PixelPools
from core.settings import Settings
from core.storage.supabase import SupabaseStorage
from core.storage.types import Storage
from core.tasks import outbox
from core.tasks.errors import LeaseLostError
from core.tasks.jobs import DONE
from core.tasks.outbox import Task
from core.uploads import processing
from core.uploads.types import UploadId
from tests.integration.uploads.conftest import Uploader, UploadsHarness
from tests.integration.uploads.files import JPEG, RENDERED
from worker import runner
from worker.registry import JOBS


class Tools(msgspec.Struct, frozen=True):
    """What a job of uploads asks for, with one of them replaced."""

    db: Database
    storage: Storage
    pixels: PixelPools
    settings: Settings


async def _sent(person: Uploader) -> UploadId:
    answer = await person.send(JPEG)
    assert answer.status_code == 202, answer.json()
    return UploadId(uuid.UUID(answer.json()["id"]))


async def _claim(uploads: UploadsHarness, *, lease_seconds: float = 60) -> Task:
    row = uploads.database.row("select id from app.outbox")
    task = await uploads.ctx.db.run(
        lambda conn: outbox.claim(conn, row["id"], lease_seconds=lease_seconds)
    )
    assert task is not None
    return task


def _expire_leases(uploads: UploadsHarness) -> None:
    uploads.database.clock.advance_past("select max(lease_until) from app.outbox")


async def _wait_for_a_day(uploads: UploadsHarness) -> None:
    """The one task waits for who is away until it is given up."""
    row = uploads.database.row("select id from app.outbox")
    assert await runner.execute(uploads.ctx, row["id"]) == "retry"
    uploads.database.clock.advance(hours=25)
    assert await runner.execute(uploads.ctx, row["id"]) == "dead"


async def test_trouble_of_the_store_is_tried_again(uploads: UploadsHarness, ada: Uploader) -> None:
    await _sent(ada)
    await uploads.fault(path_contains="/object/uploads/", method="GET", times=2)
    row = uploads.database.row("select id from app.outbox")
    assert await runner.execute(uploads.ctx, row["id"]) == "retry"
    assert [upload["state"] for upload in uploads.rows()] == ["stored"]
    await uploads.fault(path_contains="/thumb.", method="POST", times=2)
    assert await runner.execute(uploads.ctx, row["id"]) == "retry"
    assert await runner.execute(uploads.ctx, row["id"]) == "done"
    upload = uploads.rows()[0]
    assert upload["state"] == "ready"
    assert uploads.files_of(upload["id"]) == ["normal", "original", "thumb"]
    assert uploads.task_jobs() == ["upload.erase"]
    await uploads.fault(path_contains="/object/uploads", method="DELETE", times=2)
    assert await uploads.work() == ["retry", "done"]
    assert uploads.files_of(upload["id"]) == RENDERED


async def test_an_original_that_is_gone_is_said(uploads: UploadsHarness, ada: Uploader) -> None:
    await _sent(ada)
    await uploads.ctx.storage.delete("uploads", uploads.stored_keys())
    assert await uploads.work() == ["done", "done"]
    upload = uploads.rows()[0]
    assert (upload["state"], upload["problem"]["code"]) == ("rejected", "original_missing")


async def test_a_dead_letter_rejects_and_erases(uploads: UploadsHarness, ada: Uploader) -> None:
    upload_id = await _sent(ada)
    await uploads.fault(path_contains="/object/uploads/", method="GET", times=None)
    await _wait_for_a_day(uploads)
    await uploads.storage_client.delete("/__control/faults")
    await uploads.work()
    shown = (await ada.get(f"/v1/uploads/{upload_id}")).json()
    assert (shown["state"], shown["problem"]["code"]) == ("rejected", "processing_failed")
    assert uploads.stored_keys() == []
    assert uploads.database.row("select job from app.dead_letters")["job"] == "upload.normalise"
    uploads.database.rows("delete from app.dead_letters")


async def test_two_attempts_at_once_settle_once(uploads: UploadsHarness, ada: Uploader) -> None:
    upload_id = await _sent(ada)
    first = await _claim(uploads)
    _expire_leases(uploads)
    second = await _claim(uploads)
    pool = PixelPool(2)
    pools = PixelPools(deliveries=pool, photos=pool, large_photos=pool)
    tools = Tools(uploads.ctx.db, uploads.ctx.storage, pools, uploads.ctx.settings)
    try:
        results: list[Any] = await asyncio.gather(
            *(processing.normalise(tools, task) for task in (first, second)),
            return_exceptions=True,
        )
    finally:
        await pool.close()
    assert isinstance(results[0], LeaseLostError)
    assert results[1] is DONE
    assert [upload["state"] for upload in uploads.rows()] == ["ready"]
    assert uploads.task_jobs() == ["upload.erase"]
    assert await uploads.work() == ["done"]
    assert uploads.files_of(upload_id) == RENDERED
    assert uploads.task_jobs() == []


async def test_a_second_delivery_changes_nothing(uploads: UploadsHarness, ada: Uploader) -> None:
    await _sent(ada)
    row = uploads.database.row("select id from app.outbox")
    outcomes = await asyncio.gather(*(runner.execute(uploads.ctx, row["id"]) for _ in range(3)))
    assert sorted(outcomes) == ["done", "gone", "gone"]
    assert uploads.task_jobs() == ["upload.erase"]
    assert await uploads.work() == ["done"]
    before = uploads.rows()
    uploads.database.rows(
        "insert into app.outbox (job, args) values ('upload.normalise', %s::jsonb)",
        [f'{{"upload_id": "{before[0]["id"]}"}}'],
    )
    assert await uploads.work() == ["done"]
    assert uploads.rows() == before
    assert uploads.files_of(before[0]["id"]) == RENDERED
    assert uploads.task_jobs() == []


async def test_a_task_of_an_upload_that_is_gone_ends(uploads: UploadsHarness, some_id: str) -> None:
    uploads.database.rows(
        "insert into app.outbox (job, args) values ('upload.normalise', %s::jsonb)",
        [f'{{"upload_id": "{some_id}"}}'],
    )
    assert await uploads.work() == ["done"]
    assert uploads.task_jobs() == []


class DeadLetteredMeanwhile(SupabaseStorage):
    """Gives the upload up, as another worker would, while this attempt writes its last bytes."""

    def __init__(self, uploads: UploadsHarness, task: Task) -> None:
        super().__init__(uploads.ctx.settings, uploads.ctx.http)
        self._world = uploads
        self._task = task

    async def put(self, bucket: str, key: str, data: bytes | FileIO, content_type: str) -> None:
        if "/thumb." in key:
            job = JOBS["upload.normalise"]
            assert await runner.give_up(self._world.ctx, self._task, job, "gave up") == "dead"
            assert await self._world.work() == ["done"]
        await super().put(bucket, key, data, content_type)


async def test_an_attempt_that_lost_its_lease_cleans_up_after_itself(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    await _sent(ada)
    task = await _claim(uploads)
    ctx = uploads.ctx
    tools = Tools(ctx.db, DeadLetteredMeanwhile(uploads, task), ctx.pixels, ctx.settings)
    with pytest.raises(LeaseLostError):
        await processing.normalise(tools, task)
    assert [upload["state"] for upload in uploads.rows()] == ["rejected"]
    assert uploads.stored_keys() == []
    uploads.database.rows("delete from app.dead_letters")


async def test_pending_uploads_expire_with_their_bytes(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    old = (await ada.start_direct(JPEG)).json()
    await uploads.put(old, JPEG)
    uploads.database.clock.advance(hours=25)
    fresh = (await ada.start_direct(JPEG)).json()
    await uploads.put(fresh, JPEG)
    kept = await _sent(ada)
    await uploads.work()
    uploads.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    assert await uploads.work() == ["done", "done"]
    states = {str(row["id"]): row["state"] for row in uploads.rows()}
    assert states == {fresh["id"]: "pending", old["id"]: "expired", str(kept): "ready"}
    assert not any(old["id"] in key for key in uploads.stored_keys())
    assert any(fresh["id"] in key for key in uploads.stored_keys())
    answer = await ada.complete(old["id"])
    assert (answer.status_code, answer.json()["reason"]) == (409, "upload_expired")
    assert uploads.task_jobs() == []


async def test_more_than_a_batch_expires_in_one_task(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    await ada.start_direct(JPEG)
    uploads.database.rows(
        "insert into app.uploads (id, user_id, storage_key, created_at)"
        " select gen_random_uuid(), user_id, storage_key, app.now() - interval '2 days'"
        " from app.uploads, generate_series(1, 450)"
    )
    uploads.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    row = uploads.database.row("select id from app.outbox")
    assert await runner.execute(uploads.ctx, row["id"]) == "done"
    counts = uploads.database.rows("select state, count(*) from app.uploads group by 1 order by 1")
    assert [(row["state"], row["count"]) for row in counts] == [("expired", 450), ("pending", 1)]
    assert uploads.task_jobs() == ["upload.erase"] * 450
    uploads.database.rows("delete from app.outbox")


async def test_what_was_over_long_ago_is_forgotten(uploads: UploadsHarness, ada: Uploader) -> None:
    await _sent(ada)
    await uploads.ctx.storage.delete("uploads", uploads.stored_keys())
    await uploads.work()
    uploads.database.clock.advance(days=31)
    uploads.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    assert await uploads.work() == ["done"]
    assert uploads.rows() == []


async def test_erasing_spares_what_is_wanted(uploads: UploadsHarness, ada: Uploader) -> None:
    upload_id = await _sent(ada)
    await uploads.work()
    uploads.database.rows(
        "insert into app.outbox (job, args) values ('upload.erase', %s::jsonb)",
        [f'{{"upload_id": "{upload_id}", "user_id": "{ada.id}"}}'],
    )
    assert await uploads.work() == ["done"]
    assert uploads.files_of(upload_id) == RENDERED
    assert len(uploads.stored_files()) == 2


class DeletedMeanwhile(SupabaseStorage):
    """Its owner deletes the photo after the task has looked what to spare."""

    def __init__(self, uploads: UploadsHarness, person: Uploader, upload_id: UploadId) -> None:
        super().__init__(uploads.ctx.settings, uploads.ctx.http)
        self._person = person
        self._upload_id = upload_id

    async def delete(self, bucket: str, keys: Sequence[str]) -> None:
        assert (await self._person.delete(str(self._upload_id))).status_code == 204
        await super().delete(bucket, keys)


async def test_a_photo_deleted_while_its_original_is_erased_goes_wholly(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    upload_id = await _sent(ada)
    row = uploads.database.row("select id from app.outbox")
    assert await runner.execute(uploads.ctx, row["id"]) == "done"
    task = await _claim(uploads)
    assert task.job == "upload.erase"
    storage = DeletedMeanwhile(uploads, ada, upload_id)
    tools = Tools(uploads.ctx.db, storage, uploads.ctx.pixels, uploads.ctx.settings)
    assert await processing.erase(tools, task) is DONE
    assert await uploads.ctx.db.run(lambda conn: outbox.complete(conn, task.lease_token))
    assert uploads.files_of(upload_id) == RENDERED
    assert await uploads.work() == ["done"]
    assert uploads.nothing_is_left()
    assert uploads.task_jobs() == []


async def test_deleting_and_using_at_once_is_one_or_the_other(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    for _ in range(5):
        upload_id = await _sent(ada)
        await uploads.work()
        body = {"operation": "cutout", "upload_id": str(upload_id), "params": {}}
        used, deleted = await asyncio.gather(
            ada.client.post("/v1/generations", json=body, headers=ada.headers),
            ada.delete(str(upload_id)),
        )
        assert (used.status_code, deleted.status_code) in {(202, 409), (404, 204)}
        uploads.database.rows("delete from app.outbox where job = 'generation.dispatch'")
        await uploads.work()
