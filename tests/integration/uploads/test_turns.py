"""Photos of many people: whose turn it is, and what one person may send, leave and keep."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from core.tasks import outbox
from tests.harness.database import TestDatabase
from tests.integration.uploads.conftest import OpenUploads, Uploader, UploadsHarness
from tests.integration.uploads.files import JPEG, RENDERED
from tests.unit.pixels import images
from worker import runner

# 6,000 x 6,000 pixels in a few kilobytes: within all limits of a photo, and seconds to decode.
LARGE = images.encode(
    Image.radial_gradient("L").resize((6000, 6000), 0).convert("RGB"), "webp", lossless=True
)


async def _send(
    person: Uploader, *, count: int, data: bytes = JPEG, name: str = "ring.jpg"
) -> None:
    for _ in range(count):
        answer = await person.send(data, name)
        assert answer.status_code == 202, answer.json()


def _next_tasks(uploads: UploadsHarness, *, job: str = "upload.normalise%") -> list[uuid.UUID]:
    """In the order in which they were written, which is the order in which they are sent."""
    return [
        row["id"]
        for row in uploads.database.rows(
            "select id from app.outbox where job like %s order by created_at", [job]
        )
    ]


def _ready_by(uploads: UploadsHarness) -> list[str]:
    rows = uploads.database.rows(
        "select user_id from app.uploads where state = 'ready' order by settled_at"
    )
    return [str(row["user_id"]) for row in rows]


@contextlib.contextmanager
def _buyer(database: TestDatabase, person: Uploader, *, state: str = "paid") -> Iterator[None]:
    """Only an order: no credit came of it, so it may not stay."""
    database.rows(
        "insert into app.orders (id, user_id, pack_slug, pack_version, credits, unit_amount,"
        " currency, state, expires_at, paid_at)"
        " select gen_random_uuid(), %s, slug, version, credits, unit_amount, currency, %s,"
        " app.now() + interval '1 day', app.now() from app.packs limit 1",
        [person.id, state],
    )
    yield
    database.rows("delete from app.orders where user_id = %s", [person.id])


# --- turns ---------------------------------------------------------------------------------------


async def test_the_next_photo_is_of_the_next_person(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    """First come, first served let one photo wait behind all of another person's."""
    await _send(ada, count=4)
    await _send(bob, count=1)
    tasks = _next_tasks(uploads)
    assert await runner.execute(uploads.ctx, tasks[0]) == "done"
    assert await runner.execute(uploads.ctx, tasks[1]) == "done"
    assert _ready_by(uploads) == [ada.id, bob.id]
    await _send(bob, count=1)
    await uploads.work()
    assert _ready_by(uploads) == [ada.id, bob.id, ada.id, bob.id, ada.id, ada.id]
    assert uploads.database.rows("select * from app.lines") == []
    assert uploads.task_jobs() == []


async def test_photos_that_take_seconds_wait_in_a_line_of_their_own(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    await _send(ada, count=2, data=LARGE, name="wall.webp")
    await _send(bob, count=1)
    assert [row["line"] for row in uploads.rows()] == [*["normalise_large"] * 2, "normalise"]
    *_, of_bob = _next_tasks(uploads)
    assert await runner.execute(uploads.ctx, of_bob) == "done"
    assert _ready_by(uploads) == [bob.id]


async def test_many_tasks_at_once_take_each_photo_once(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    await _send(ada, count=5)
    await _send(bob, count=3)
    while tasks := _next_tasks(uploads):
        outcomes = await asyncio.gather(*(runner.execute(uploads.ctx, task) for task in tasks))
        assert set(outcomes) <= {"done", "again"}
        uploads.database.clock.advance(seconds=1)
    rows = uploads.database.rows("select state, task_id from app.uploads")
    assert {row["state"] for row in rows} == {"ready"}
    assert len({row["task_id"] for row in rows}) == 8
    await uploads.work()


async def test_a_task_keeps_its_photo_through_every_try(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    await _send(ada, count=1)
    await _send(bob, count=1)
    first, second = _next_tasks(uploads)
    await uploads.fault(path_contains="/object/uploads/", method="GET", times=2)
    assert await runner.execute(uploads.ctx, first) == "retry"
    assert await runner.execute(uploads.ctx, second) == "done"
    assert _ready_by(uploads) == [bob.id]
    assert await runner.execute(uploads.ctx, first) == "done"
    assert _ready_by(uploads) == [bob.id, ada.id]
    await uploads.work()


async def test_who_comes_while_all_processes_are_taken_is_next(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    """Tasks that have a slot but no process yet have not chosen their photo."""
    await _send(ada, count=3)
    async with uploads.ctx.pixels.photos.reserve():
        waiting = [
            asyncio.create_task(runner.execute(uploads.ctx, task)) for task in _next_tasks(uploads)
        ]
        await asyncio.sleep(0.2)
        await _send(bob, count=1)
    await asyncio.gather(*waiting)
    await uploads.work()
    assert _ready_by(uploads).index(bob.id) <= 1


async def test_a_photo_whose_task_is_given_up_at_its_first_try_is_rejected(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    """The task was claimed before its turn: what it was claimed with does not name the photo."""
    await _send(ada, count=1)
    await uploads.fault(
        path_contains="/object/uploads/",
        method="GET",
        status=400,
        body='{"statusCode": "422", "error": "InvalidKey", "message": "refused"}',
    )
    assert await runner.execute(uploads.ctx, _next_tasks(uploads)[0]) == "dead"
    (upload,) = uploads.rows()
    assert (upload["state"], upload["problem"]["code"]) == ("rejected", "processing_failed")
    await uploads.work()
    uploads.database.rows("delete from app.dead_letters")


async def test_what_lost_its_task_gets_another_within_the_hour(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    await _send(ada, count=2)
    await _send(bob, count=1)
    first, *_ = _next_tasks(uploads)
    taken = await uploads.ctx.db.run(lambda conn: outbox.claim(conn, first, lease_seconds=60))
    assert taken is not None
    uploads.database.rows("delete from app.lines")
    uploads.database.rows("delete from app.outbox")
    uploads.database.rows("insert into app.outbox (job) values ('uploads.expire')")
    assert (
        await runner.execute(uploads.ctx, _next_tasks(uploads, job="uploads.expire")[0]) == "done"
    )
    await uploads.work()
    assert sorted(_ready_by(uploads)) == sorted([ada.id, ada.id, bob.id])


async def test_a_task_from_before_the_lines_names_its_photo(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    """A release overlaps with the one before it."""
    await _send(ada, count=1)
    (upload,) = uploads.rows()
    uploads.database.rows(
        "update app.outbox set args = jsonb_build_object('upload_id', %s::uuid)", [upload["id"]]
    )
    assert await uploads.work() == ["done", "done"]
    assert _ready_by(uploads) == [ada.id]


# --- bounds --------------------------------------------------------------------------------------


async def test_what_is_not_finished_is_bounded(open_uploads: OpenUploads) -> None:
    """Stored photos counted for nothing: one account could send them without end."""
    async with open_uploads(uploads_unfinished_max=3, uploads_unfinished_max_buyers=5) as uploads:
        ada = await uploads.person()
        await _send(ada, count=2)
        assert (await ada.start_direct(JPEG)).status_code == 201
        for refused in (await ada.send(JPEG), await ada.start_direct(JPEG)):
            problem = refused.json()
            assert (refused.status_code, problem["reason"]) == (429, "unfinished_uploads")
            assert problem["limit"] == 3
            assert int(refused.headers["retry-after"]) > 0
            assert "3 uploads are not finished" in problem["detail"]
        await _send(await uploads.person("bob@example.com"), count=1)
        await uploads.work()
        await _send(ada, count=2)
        with _buyer(uploads.database, ada):
            await _send(ada, count=2)
            assert (await ada.send(JPEG)).json()["limit"] == 5
        await uploads.work()


async def test_an_announcement_whose_url_has_ended_counts_no_more(
    open_uploads: OpenUploads,
) -> None:
    async with open_uploads(uploads_unfinished_max=1) as uploads:
        ada = await uploads.person()
        assert (await ada.start_direct(JPEG)).status_code == 201
        assert (await ada.send(JPEG)).status_code == 429
        uploads.database.clock.advance(hours=3)
        await _send(ada, count=1)
        await uploads.work()


async def test_twenty_at_once_are_no_way_around_a_bound(open_uploads: OpenUploads) -> None:
    async with open_uploads(uploads_unfinished_max=4) as uploads:
        ada = await uploads.person()
        answers = await asyncio.gather(*(ada.start_direct(JPEG) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [201] * 4 + [429] * 16


async def test_pixels_have_a_price_until_something_is_bought(open_uploads: OpenUploads) -> None:
    """30 kB may unpack to 50 megapixels: what is bounded is what they cost us."""
    async with open_uploads(upload_megapixels_per_minute=120) as uploads:
        ada = await uploads.person()
        await _send(ada, count=2, data=LARGE, name="wall.webp")
        refused = await ada.send(LARGE, "wall.webp")
        problem = refused.json()
        assert (refused.status_code, problem["reason"]) == (429, "pixels_per_minute")
        assert problem["limit"] == 120
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= 60
        assert uploads.rows()[0]["cost_pixels"] >= 36_000_000
        await _send(await uploads.person("bob@example.com"), count=1)
        (deleted, *_) = uploads.rows()
        uploads.database.rows("delete from app.uploads where id = %s", [deleted["id"]])
        assert (await ada.send(LARGE, "wall.webp")).status_code == 429, "deleting gives none back"
        uploads.database.clock.advance(seconds=wait)
        await _send(ada, count=1, data=LARGE, name="wall.webp")
        with _buyer(uploads.database, ada):
            await _send(ada, count=1, data=LARGE, name="wall.webp")


async def test_a_direct_upload_beyond_the_price_may_be_completed_later(
    open_uploads: OpenUploads,
) -> None:
    async with open_uploads(upload_megapixels_per_minute=60) as uploads:
        ada = await uploads.person()
        direct = (await ada.start_direct(LARGE, "wall.webp", "image/webp")).json()
        assert (await uploads.put(direct, LARGE)).status_code == 200
        await _send(ada, count=1, data=LARGE, name="wall.webp")
        refused = await ada.complete(direct["id"])
        assert (refused.status_code, refused.json()["reason"]) == (429, "pixels_per_minute")
        assert (await ada.get(f"/v1/uploads/{direct['id']}")).json()["state"] == "pending"
        uploads.database.clock.advance(seconds=int(refused.headers["retry-after"]))
        assert (await ada.complete(direct["id"])).status_code == 202


async def test_what_is_kept_is_bounded_and_the_oldest_unused_goes_first(
    open_uploads: OpenUploads,
) -> None:
    async with open_uploads(uploads_kept_max=3, uploads_kept_max_buyers=4) as uploads:
        ada = await uploads.person()
        await _send(ada, count=3)
        await uploads.work()
        used, oldest, newest = (str(row["id"]) for row in uploads.rows())
        await _use(ada, used)
        refused = await ada.send(JPEG)
        assert (refused.status_code, refused.json()["reason"]) == (429, "photos_kept")
        assert int(refused.headers["retry-after"]) > 80_000, "what is new may be about to be used"
        uploads.database.clock.advance(hours=25)
        await _send(ada, count=1)
        uploads.database.rows("delete from app.outbox where job = 'generation.dispatch'")
        await uploads.work()
        states = {str(row["id"]): row["state"] for row in uploads.rows()}
        assert (states[used], states[oldest], states[newest]) == ("ready", "expired", "ready")
        assert (uploads.files_of(used), uploads.files_of(oldest)) == (RENDERED, [])
        shown = (await ada.get(f"/v1/uploads/{oldest}")).json()
        assert (shown["state"], shown["photo_url"]) == ("expired", None)
        with _buyer(uploads.database, ada):
            await _send(ada, count=1)
        await uploads.work()


async def _use(person: Uploader, upload_id: str) -> None:
    """A generation of it; that it ends before it began makes no difference to the photo."""
    body = {"operation": "cutout", "upload_id": upload_id, "params": {}}
    used = await person.client.post("/v1/generations", json=body, headers=person.headers)
    assert used.status_code == 202, used.json()
    path = f"/v1/generations/{used.json()['id']}/cancel"
    assert (await person.client.post(path, headers=person.headers)).status_code in {200, 202}


async def test_bytes_that_are_kept_are_bounded_too(open_uploads: OpenUploads) -> None:
    async with open_uploads(uploads_kept_megabytes_max=1) as uploads:
        ada = await uploads.person()
        await _send(ada, count=1)
        await uploads.work()
        (kept,) = uploads.rows()
        sizes = [path.stat().st_size for path in uploads.stored_files()]
        assert kept["kept_bytes"] == sum(sizes)
        uploads.database.rows("update app.uploads set kept_bytes = 1000000")
        refused: Any = await ada.send(JPEG)
        assert (refused.status_code, refused.json()["reason"]) == (429, "bytes_kept")
        assert "1 megabytes" in refused.json()["detail"]


@pytest.mark.parametrize("state", ["refunded", "charged_back"])
async def test_who_has_the_money_back_has_not_bought(open_uploads: OpenUploads, state: str) -> None:
    async with open_uploads(uploads_unfinished_max=1, uploads_unfinished_max_buyers=9) as uploads:
        ada = await uploads.person()
        await _send(ada, count=1)
        with _buyer(uploads.database, ada, state=state):
            assert (await ada.send(JPEG)).status_code == 429
        await uploads.work()
