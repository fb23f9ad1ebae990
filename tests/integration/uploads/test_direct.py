"""The signed direct upload: announce, send to storage, complete."""

import asyncio
import datetime as dt
from typing import Any

from tests.integration.uploads.conftest import Person, World
from tests.integration.uploads.files import JPEG, PNG, REFUSED, RENDERED
from tests.unit.pixels import images


async def _started(person: Person, data: bytes, name: str = "ring.jpg", **more: Any) -> Any:
    answer = await person.start_direct(data, name, **more)
    assert answer.status_code == 201, answer.json()
    return answer.json()


async def test_from_announcement_to_ready(world: World, ada: Person) -> None:
    answer = await ada.start_direct(JPEG)
    direct = answer.json()
    assert answer.headers["location"] == f"/v1/uploads/{direct['id']}"
    assert (direct["method"], direct["headers"]) == ("PUT", {"Content-Type": "image/jpeg"})
    ends_in = dt.datetime.fromisoformat(direct["expires_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=1) < ends_in <= dt.timedelta(hours=2)
    assert (await ada.get(f"/v1/uploads/{direct['id']}")).json()["state"] == "pending"

    assert (await world.put(direct, JPEG)).status_code == 200
    async with world.working():
        completed = await ada.complete(direct["id"], wait=20)
    assert completed.status_code == 201, completed.json()
    upload = completed.json()
    assert (upload["id"], upload["state"]) == (direct["id"], "ready")
    assert (upload["source_format"], upload["size_bytes"]) == ("jpeg", len(JPEG))
    assert upload["thumbnail_url"] is not None
    again = await ada.complete(direct["id"])
    assert (again.status_code, again.json()["state"]) == (201, "ready")
    assert world.files_of(direct["id"]) == RENDERED
    assert world.task_jobs() == ["upload.erase"]
    assert world.late_erasures() == [direct["id"]]


async def test_an_original_put_back_after_it_is_ready_is_erased_too(
    world: World, ada: Person
) -> None:
    direct = await _started(ada, JPEG)
    await world.put(direct, JPEG)
    await ada.complete(direct["id"])
    assert await world.work() == ["done", "done"]
    assert world.files_of(direct["id"]) == RENDERED
    assert (await world.put(direct, JPEG)).status_code == 200
    assert world.files_of(direct["id"]) == ["normal", "original", "thumb"]
    world.database.rows("update app.outbox set due_at = now()")
    assert await world.work() == ["done"]
    assert world.files_of(direct["id"]) == RENDERED
    assert len(world.stored_files()) == 2
    assert world.task_jobs() == []


async def test_other_formats(world: World, ada: Person) -> None:
    for content_type, extension in (
        ("image/heic", "heic"),
        ("image/heif", "heic"),
        ("image/tiff", "tif"),
        ("image/webp", "webp"),
    ):
        kind = content_type.partition("/")[2].replace("heif", "heic")
        data = images.encode(images.photo(), kind)
        direct = await _started(ada, data, f"ring.{extension}", content_type=content_type)
        await world.put(direct, data)
        answer = await ada.complete(direct["id"])
        assert (answer.status_code, answer.json()["source_format"]) == (202, kind)
        assert await world.work() == ["done", "done"]
        assert world.files_of(direct["id"]) == RENDERED


async def test_what_is_refused_is_gone_row_and_bytes(world: World, ada: Person) -> None:
    for name in REFUSED:
        if name != "too_many_bytes":  # an announcement of that size is refused
            await _is_refused(world, ada, name)


async def _is_refused(world: World, ada: Person, name: str) -> None:
    data, file_name, status, reason = REFUSED[name]
    kind = file_name.rpartition(".")[2]
    content_type = {"png": "image/png", "webp": "image/webp"}.get(kind, "image/jpeg")
    direct = await _started(
        ada, data, file_name, content_type=content_type, size_bytes=len(data) or 1
    )
    assert (await world.put(direct, data)).status_code == 200
    answer = await ada.complete(direct["id"])
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), name
    assert world.nothing_is_left(), name
    assert (await ada.get(f"/v1/uploads/{direct['id']}")).status_code == 404


async def test_more_bytes_than_announced_are_refused_unread(world: World, ada: Person) -> None:
    direct = await _started(ada, JPEG)
    await world.put(direct, JPEG + bytes(25_000_000))
    await world.fault(path_contains="/object/uploads/", method="GET", times=None)
    answer = await ada.complete(direct["id"])
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_many_bytes")
    assert world.nothing_is_left()


async def test_bytes_put_back_after_the_refusal_are_erased_too(world: World, ada: Person) -> None:
    direct = await _started(ada, b"junk")
    await world.put(direct, b"junk")
    assert (await ada.complete(direct["id"])).status_code == 415
    await world.work()
    assert world.nothing_is_left()
    assert world.task_jobs() == ["upload.erase"]  # waits until the signed URL has ended
    assert (await world.put(direct, b"junk again")).status_code == 200
    assert world.stored_keys() != []
    assert world.late_erasures() == [direct["id"]]
    world.database.rows("update app.outbox set due_at = now()")
    await world.work()
    assert world.nothing_is_left()
    assert world.task_jobs() == []


async def test_announcements_that_cannot_be_kept(world: World, ada: Person) -> None:
    for more, status in (
        ({"size_bytes": 25_000_001}, 413),
        ({"size_bytes": 0}, 415),
        ({"size_bytes": -1}, 400),
        ({"content_type": "application/pdf"}, 415),
        ({"content_type": ""}, 415),
        ({"file_name": ""}, 400),
        ({"colour": "red"}, 400),
    ):
        answer = await ada.start_direct(JPEG, **more)
        assert answer.status_code == status, (more, answer.json())
    assert world.nothing_is_left()


async def test_complete_before_the_bytes_came(world: World, ada: Person) -> None:
    direct = await _started(ada, JPEG)
    answer = await ada.complete(direct["id"])
    assert (answer.status_code, answer.json()["reason"]) == (409, "not_uploaded")
    await world.put(direct, JPEG)
    assert (await ada.complete(direct["id"])).status_code == 202
    await world.work()


async def test_complete_while_the_store_is_away_changes_nothing(world: World, ada: Person) -> None:
    direct = await _started(ada, JPEG)
    await world.put(direct, JPEG)
    await world.fault(path_contains="/object/", times=None)
    assert (await ada.complete(direct["id"])).status_code == 503
    assert [row["state"] for row in world.uploads()] == ["pending"]
    await world.storage_client.delete("/__control/faults")
    assert (await ada.complete(direct["id"])).status_code == 202
    await world.work()


async def test_a_url_that_cannot_be_signed_leaves_nothing(world: World, ada: Person) -> None:
    await world.fault(path_contains="/object/upload/sign", times=2)
    assert (await ada.start_direct(JPEG)).status_code == 503
    assert world.uploads() == []


async def test_an_idempotency_key_announces_once(world: World, ada: Person) -> None:
    ada.headers["Idempotency-Key"] = "once"
    first = await _started(ada, JPEG)
    assert await _started(ada, JPEG) == first
    assert (await ada.start_direct(PNG)).status_code == 422
    assert len(world.uploads()) == 1


async def test_complete_by_many_at_once_is_one_task(world: World, ada: Person) -> None:
    direct = await _started(ada, JPEG)
    await world.put(direct, JPEG)
    answers = await asyncio.gather(*(ada.complete(direct["id"]) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert world.task_jobs() == ["upload.normalise"]
    assert await world.work() == ["done", "done"]
    assert world.files_of(direct["id"]) == RENDERED
    assert len(world.stored_keys()) == 2
    assert world.task_jobs() == ["upload.erase"]
    assert world.late_erasures() == [direct["id"]]


async def test_refused_by_many_at_once_is_gone_once(world: World, ada: Person) -> None:
    direct = await _started(ada, b"junk")
    await world.put(direct, b"junk")
    answers = await asyncio.gather(*(ada.complete(direct["id"]) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {404, 409, 415}
    assert 415 in {answer.status_code for answer in answers}
    assert world.nothing_is_left()


async def test_at_most_two_hundred_unfinished(world: World, ada: Person) -> None:
    await _started(ada, JPEG)
    world.database.rows(
        "insert into app.uploads (id, user_id, storage_key)"
        " select gen_random_uuid(), user_id, storage_key from app.uploads, generate_series(1, 199)"
    )
    answer = await ada.start_direct(JPEG)
    assert (answer.status_code, answer.json()["limit"]) == (429, 200)
