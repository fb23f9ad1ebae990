"""The signed direct upload: announce, send to storage, complete."""

import asyncio
import datetime as dt
from typing import Any

from tests.integration.uploads.conftest import Uploader, UploadsHarness
from tests.integration.uploads.files import JPEG, PNG, REFUSED, RENDERED
from tests.unit.pixels import images


async def _started(person: Uploader, data: bytes, name: str = "ring.jpg", **more: Any) -> Any:
    answer = await person.start_direct(data, name, **more)
    assert answer.status_code == 201, answer.json()
    return answer.json()


async def test_from_announcement_to_ready(uploads: UploadsHarness, ada: Uploader) -> None:
    answer = await ada.start_direct(JPEG)
    direct = answer.json()
    assert answer.headers["location"] == f"/v1/uploads/{direct['id']}"
    assert (direct["method"], direct["headers"]) == ("PUT", {"Content-Type": "image/jpeg"})
    ends_in = dt.datetime.fromisoformat(direct["expires_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=1) < ends_in <= dt.timedelta(hours=2)
    assert (await ada.get(f"/v1/uploads/{direct['id']}")).json()["state"] == "pending"

    assert (await uploads.put(direct, JPEG)).status_code == 200
    async with uploads.working():
        completed = await ada.complete(direct["id"], wait=20)
    assert completed.status_code == 201, completed.json()
    upload = completed.json()
    assert (upload["id"], upload["state"]) == (direct["id"], "ready")
    assert (upload["source_format"], upload["size_bytes"]) == ("jpeg", len(JPEG))
    assert upload["thumbnail_url"] is not None
    again = await ada.complete(direct["id"])
    assert (again.status_code, again.json()["state"]) == (201, "ready")
    assert uploads.files_of(direct["id"]) == RENDERED
    assert uploads.task_jobs() == ["upload.erase"]
    assert uploads.late_erasures() == [direct["id"]]


async def test_an_original_put_back_after_it_is_ready_is_erased_too(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    direct = await _started(ada, JPEG)
    await uploads.put(direct, JPEG)
    await ada.complete(direct["id"])
    assert await uploads.work() == ["done", "done"]
    assert uploads.files_of(direct["id"]) == RENDERED
    assert (await uploads.put(direct, JPEG)).status_code == 200
    assert uploads.files_of(direct["id"]) == ["normal", "original", "thumb"]
    uploads.database.clock.advance_past("select max(due_at) from app.outbox")
    assert await uploads.work() == ["done"]
    assert uploads.files_of(direct["id"]) == RENDERED
    assert len(uploads.stored_files()) == 2
    assert uploads.task_jobs() == []


async def test_other_formats(uploads: UploadsHarness, ada: Uploader) -> None:
    for content_type, extension in (
        ("image/heic", "heic"),
        ("image/heif", "heic"),
        ("image/tiff", "tif"),
        ("image/webp", "webp"),
    ):
        kind = content_type.partition("/")[2].replace("heif", "heic")
        data = images.encode(images.photo(), kind)
        direct = await _started(ada, data, f"ring.{extension}", content_type=content_type)
        await uploads.put(direct, data)
        answer = await ada.complete(direct["id"])
        assert (answer.status_code, answer.json()["source_format"]) == (202, kind)
        assert await uploads.work() == ["done", "done"]
        assert uploads.files_of(direct["id"]) == RENDERED


async def test_what_is_refused_is_gone_row_and_bytes(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    for name in REFUSED:
        if name != "too_many_bytes":  # an announcement of that size is refused
            await _is_refused(uploads, ada, name)


async def _is_refused(uploads: UploadsHarness, ada: Uploader, name: str) -> None:
    data, file_name, status, reason = REFUSED[name]
    kind = file_name.rpartition(".")[2]
    content_type = {"png": "image/png", "webp": "image/webp"}.get(kind, "image/jpeg")
    direct = await _started(
        ada, data, file_name, content_type=content_type, size_bytes=len(data) or 1
    )
    assert (await uploads.put(direct, data)).status_code == 200
    answer = await ada.complete(direct["id"])
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), name
    assert uploads.nothing_is_left(), name
    assert (await ada.get(f"/v1/uploads/{direct['id']}")).status_code == 404


async def test_more_bytes_than_announced_are_refused_unread(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    direct = await _started(ada, JPEG)
    await uploads.put(direct, JPEG + bytes(25_000_000))
    await uploads.fault(path_contains="/object/uploads/", method="GET", times=None)
    answer = await ada.complete(direct["id"])
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_many_bytes")
    assert uploads.nothing_is_left()


async def test_bytes_put_back_after_the_refusal_are_erased_too(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    direct = await _started(ada, b"junk")
    await uploads.put(direct, b"junk")
    assert (await ada.complete(direct["id"])).status_code == 415
    await uploads.work()
    assert uploads.nothing_is_left()
    assert uploads.task_jobs() == ["upload.erase"]  # waits until the signed URL has ended
    assert (await uploads.put(direct, b"junk again")).status_code == 200
    assert uploads.stored_keys() != []
    assert uploads.late_erasures() == [direct["id"]]
    uploads.database.clock.advance_past("select max(due_at) from app.outbox")
    await uploads.work()
    assert uploads.nothing_is_left()
    assert uploads.task_jobs() == []


async def test_announcements_that_cannot_be_kept(uploads: UploadsHarness, ada: Uploader) -> None:
    for more, status in (
        ({"size_bytes": 25_000_001}, 413),
        ({"size_bytes": 0}, 415),
        ({"size_bytes": -1}, 400),
        ({"content_type": "application/pdf"}, 415),
        ({"content_type": "video/mp4"}, 415),
        ({"file_name": ""}, 400),
        ({"colour": "red"}, 400),
    ):
        answer = await ada.start_direct(JPEG, **more)
        assert answer.status_code == status, (more, answer.json())
    assert uploads.nothing_is_left()


async def test_complete_before_the_bytes_came(uploads: UploadsHarness, ada: Uploader) -> None:
    direct = await _started(ada, JPEG)
    answer = await ada.complete(direct["id"])
    assert (answer.status_code, answer.json()["reason"]) == (409, "not_uploaded")
    await uploads.put(direct, JPEG)
    assert (await ada.complete(direct["id"])).status_code == 202
    await uploads.work()


async def test_complete_while_the_store_is_away_changes_nothing(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    direct = await _started(ada, JPEG)
    await uploads.put(direct, JPEG)
    await uploads.fault(path_contains="/object/", times=None)
    assert (await ada.complete(direct["id"])).status_code == 503
    assert [row["state"] for row in uploads.rows()] == ["pending"]
    await uploads.storage_client.delete("/__control/faults")
    assert (await ada.complete(direct["id"])).status_code == 202
    await uploads.work()


async def test_a_url_that_cannot_be_signed_leaves_nothing(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    await uploads.fault(path_contains="/object/upload/sign", times=2)
    assert (await ada.start_direct(JPEG)).status_code == 503
    assert uploads.rows() == []


async def test_complete_by_many_at_once_is_one_task(uploads: UploadsHarness, ada: Uploader) -> None:
    direct = await _started(ada, JPEG)
    await uploads.put(direct, JPEG)
    answers = await asyncio.gather(*(ada.complete(direct["id"]) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert uploads.task_jobs() == ["upload.normalise"]
    assert await uploads.work() == ["done", "done"]
    assert uploads.files_of(direct["id"]) == RENDERED
    assert len(uploads.stored_keys()) == 2
    assert uploads.task_jobs() == ["upload.erase"]
    assert uploads.late_erasures() == [direct["id"]]


async def test_refused_by_many_at_once_is_gone_once(uploads: UploadsHarness, ada: Uploader) -> None:
    direct = await _started(ada, b"junk")
    await uploads.put(direct, b"junk")
    answers = await asyncio.gather(*(ada.complete(direct["id"]) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {404, 409, 415}
    assert 415 in {answer.status_code for answer in answers}
    assert uploads.nothing_is_left()


async def test_a_key_goes_on_with_its_upload(uploads: UploadsHarness, ada: Uploader) -> None:
    """Its URL is a secret, so it is not stored: each request gets one of its own."""
    await uploads.fault(path_contains="/object/upload/sign/", method="POST", times=2)
    assert (await ada.start_direct(JPEG, key="k")).status_code == 503
    (pending,) = uploads.rows()
    first = await ada.start_direct(JPEG, key="k")
    direct = first.json()
    assert (first.status_code, direct["id"]) == (201, str(pending["id"]))
    assert first.headers["idempotency-replayed"] == "true"
    again = (await ada.start_direct(JPEG, key="k")).json()
    assert again["id"] == direct["id"]
    for shown in (direct, again):
        assert uploads.database.tables_with(shown["url"].rpartition("token=")[2]) == []
    other = await ada.start_direct(PNG, key="k")
    assert (other.status_code, len(uploads.rows())) == (422, 1)

    assert (await uploads.put(again, JPEG)).status_code == 200
    sent = (await ada.start_direct(JPEG, key="k")).json()
    assert (sent["id"], sent["url"], sent["expires_at"]) == (direct["id"], None, None)
    assert (await ada.complete(direct["id"])).status_code == 202
    done = (await ada.start_direct(JPEG, key="k")).json()
    assert (done["id"], done["url"]) == (direct["id"], None)


async def test_a_url_that_is_signed_again_is_remembered(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    """What is sent to it after a refusal is erased when it has ended."""
    await ada.start_direct(JPEG, key="k")
    (before,) = uploads.rows()
    await asyncio.sleep(0.01)  # a URL lives for so long from when it is signed
    await ada.start_direct(JPEG, key="k")
    (after,) = uploads.rows()
    assert after["signed_until"] > before["signed_until"]
