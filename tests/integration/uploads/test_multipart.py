"""POST /v1/uploads and what is shown of an upload afterwards."""

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest

from tests.harness.ledger import user_claims
from tests.integration.uploads.conftest import Uploader, UploadsHarness
from tests.integration.uploads.files import JPEG, PNG, REFUSED, RENDERED
from tests.unit.pixels import images

BOUNDARY = "frontier"


async def _post_raw(
    person: Uploader, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}"
) -> httpx.Response:
    return await person.client.post(
        "/v1/uploads", content=body, headers=person.headers | {"Content-Type": content_type}
    )


def _part(disposition: str, data: bytes, *more: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *more]
    head = f"--{BOUNDARY}\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return head.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


async def test_a_bad_file_is_told_what_is_wrong_and_leaves_nothing(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    for name, (data, file_name, status, reason) in REFUSED.items():
        answer = await ada.send(data, file_name)
        problem = answer.json()
        assert (answer.status_code, problem["reason"]) == (status, reason), name
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(problem["detail"]) > 30
        assert uploads.nothing_is_left(), name
        assert uploads.task_jobs() == [], name


async def test_every_format_becomes_ready(uploads: UploadsHarness, ada: Uploader) -> None:
    for kind in images.FORMATS:
        await _becomes_ready(uploads, ada, kind)
    assert len(uploads.stored_keys()) == 2 * len(images.FORMATS)
    assert uploads.task_jobs() == []


async def _becomes_ready(uploads: UploadsHarness, ada: Uploader, kind: str) -> None:
    data = images.encode(images.photo(640, 480), kind)
    async with uploads.working():
        answer = await ada.send(data, f"ring.{kind}", wait=20)
    upload = answer.json()
    assert answer.status_code == 201, upload
    assert answer.headers["location"] == f"/v1/uploads/{upload['id']}"
    assert answer.headers["preference-applied"] == "wait=20"
    assert "retry-after" not in answer.headers
    assert (upload["state"], upload["source_format"]) == ("ready", kind)
    assert (upload["width"], upload["height"]) == (640, 480)
    assert upload["size_bytes"] == len(data)
    photo = await uploads.storage_client.get(upload["photo_url"])
    assert images.decode(photo.content).size == (640, 480)
    thumbnail = await uploads.storage_client.get(upload["thumbnail_url"])
    assert max(images.decode(thumbnail.content).size) == 512
    assert uploads.files_of(upload["id"]) == RENDERED


async def test_without_wait_it_is_accepted_and_shown_later(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    secret = "SECRET-MAKER"
    exif = images.exif_with_location(secret)
    data = images.encode(images.photo(), "jpeg", exif=exif)
    answer = await ada.send(data, "C:\\photos\\My rïng.jpg")
    assert answer.status_code == 202
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["state"] == "stored"
    assert answer.json()["thumbnail_url"] is None
    assert uploads.task_jobs() == ["upload.normalise"]
    early = await ada.get(answer.headers["location"])
    assert (early.json()["state"], early.headers["retry-after"]) == ("stored", "2")

    assert await uploads.work() == ["done", "done"]
    settled = await ada.get(answer.headers["location"], wait=5)
    upload = settled.json()
    assert upload["state"] == "ready"
    assert settled.headers["preference-applied"] == "wait=5"
    assert "retry-after" not in settled.headers
    assert upload["file_name"] == "My rïng.jpg"
    assert upload["notes"][:2] == ["removed location", "removed camera data"]
    photo = await uploads.storage_client.get(upload["photo_url"])
    assert secret.encode() not in photo.content
    assert images.decode(photo.content).getexif() == {}


async def test_what_a_photo_says_of_its_place_is_nowhere_once_it_is_ready(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    secret = "SECRET-MAKER"
    exif = images.exif_with_location(secret)
    for kind in images.FORMATS:
        data = images.encode(images.photo(), kind, exif=exif)
        assert secret.encode() in data
        upload_id = (await ada.send(data, f"ring.{kind}")).json()["id"]
        assert uploads.files_of(upload_id) == ["original"]
        assert [path.read_bytes() for path in uploads.stored_files()].count(data) == 1

        assert await uploads.work() == ["done", "done"], kind
        shown = (await ada.get(f"/v1/uploads/{upload_id}")).json()
        assert (shown["state"], shown["notes"][0]) == ("ready", "removed location")
        assert uploads.files_of(upload_id) == RENDERED
        for name in ("photo_url", "thumbnail_url"):
            kept = await uploads.storage_client.get(shown[name])
            assert images.decode(kept.content).getexif() == {}, (kind, name)
    files = [path.read_bytes() for path in uploads.stored_files()]
    assert len(files) == 2 * len(images.FORMATS)
    assert not any(secret.encode() in kept or b"Exif\0\0" in kept for kept in files)
    assert not any("/original." in key for key in uploads.stored_keys())
    assert uploads.task_jobs() == []


@pytest.mark.parametrize(
    ("name", "code", "said"), [("ring.png", "corrupt", "damaged"), ("ring.tif", "cmyk", "sRGB")]
)
async def test_what_the_worker_finds_is_rejected_and_erased(
    uploads: UploadsHarness, ada: Uploader, name: str, code: str, said: str
) -> None:
    """What only decoding tells, and all that is wrong with a TIFF."""
    data = _undecodable() if code == "corrupt" else _in_print_colours()
    async with uploads.working():
        answer = await ada.send(data, name, wait=20)
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (422, code)
    assert said in problem["detail"]
    assert uploads.stored_keys() == []
    assert uploads.stored_files() == []
    shown = (await ada.get(f"/v1/uploads/{problem['upload_id']}")).json()
    assert shown["state"] == "rejected"
    assert shown["problem"] == {"code": code, "detail": problem["detail"]}
    assert (await ada.delete(problem["upload_id"])).status_code == 204
    assert uploads.nothing_is_left()


def _in_print_colours() -> bytes:
    return images.encode(images.photo().convert("CMYK"), "tiff")


def _undecodable() -> bytes:
    """A PNG whose structure is whole and whose compressed pixels are noise."""
    noise = bytes(range(256)) * 8
    header = images.png_header(200, 200)[:33]
    return header + images.png_chunk(b"IDAT", noise) + images.png_chunk(b"IEND", b"")


async def test_wait_ends_with_the_time(uploads: UploadsHarness, ada: Uploader) -> None:
    answer = await ada.send(JPEG, wait=1)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.json()["state"] == "stored"
    await uploads.work()


async def test_the_form_is_read_strictly_and_survives_anything(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    whole = _part('name="file"; filename="ring.jpg"', JPEG)
    bad: list[tuple[bytes, int]] = [
        (b"", 400),
        (END, 400),
        (b"not a form at all", 400),
        (whole, 400),
        (_part('name="photo"; filename="ring.jpg"', JPEG) + END, 400),
        (whole + whole + END, 400),
        (_part('name="file"; filename="ring.jpg"', b"\xff\xfe\xfd") + END, 415),
        (
            _part('name="file"', b"\xff\xfe\xfd", "Content-Type: text/plain; charset=nope") + END,
            415,
        ),
        (_part('name="note"', b"x") * 40 + whole + END, 400),
    ]
    for body, status in bad:
        answer = await _post_raw(ada, body)
        assert answer.status_code == status, (body[:200], answer.json())
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=", "image/jpeg"):
        answer = await _post_raw(ada, whole + END, content_type)
        assert answer.status_code in {400, 415}, answer.json()
    assert uploads.nothing_is_left()


async def test_a_part_without_a_name_or_type_is_taken_by_its_bytes(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    answer = await _post_raw(ada, _part('name="note"', b"hi") + _part('name="file"', JPEG) + END)
    assert answer.status_code == 202, answer.json()
    assert answer.json()["file_name"] is None
    await uploads.work()


async def test_a_body_of_any_length_is_refused_with_the_limit(ada: Uploader) -> None:
    headers = ada.headers | {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": "900000000",
    }
    answer = await ada.client.post("/v1/uploads", content=b"x", headers=headers)
    assert answer.status_code == 413
    assert answer.json()["limit_bytes"] == 25_000_000


async def test_nobody_unknown_may_send(uploads: UploadsHarness) -> None:
    answer = await uploads.client.post("/v1/uploads", files={"file": ("ring.jpg", JPEG)})
    assert answer.status_code == 401
    assert (await uploads.client.get("/v1/uploads")).status_code == 401
    assert uploads.nothing_is_left()


async def test_the_first_request_of_a_person_opens_their_account(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    assert (await ada.send(JPEG)).status_code == 202
    rows = uploads.database.rows("select id from app.users")
    assert [row["id"] for row in rows] == [uuid.UUID(ada.id)]
    await uploads.work()


async def test_a_store_that_is_away_is_said_and_leaves_nothing(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    await uploads.fault(path_contains="/object/", times=None)
    answer = await ada.send(JPEG)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "Fault" not in answer.text
    assert uploads.rows() == []
    await uploads.storage_client.delete("/__control/faults")
    assert await uploads.work() == ["done"]
    assert uploads.nothing_is_left()


async def test_bytes_whose_answer_was_lost_are_erased(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    await uploads.fault(path_contains="/object/uploads/", when="after", times=2)
    assert (await ada.send(JPEG)).status_code == 503
    await uploads.work()
    assert uploads.nothing_is_left()


async def test_an_upload_is_shown_while_the_store_is_away(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    async with uploads.working():
        made = (await ada.send(JPEG, wait=20)).json()
    await uploads.fault(path_contains="/object/sign", times=None)
    shown = await ada.get(f"/v1/uploads/{made['id']}")
    assert shown.status_code == 200
    assert (shown.json()["state"], shown.json()["thumbnail_url"]) == ("ready", None)


async def test_the_list_pages_newest_first_and_shows_own_only(
    uploads: UploadsHarness, ada: Uploader, bob: Uploader
) -> None:
    sent = [(await ada.send(JPEG, f"{number}.jpg")).json()["id"] for number in range(5)]
    theirs = (await bob.send(JPEG)).json()["id"]
    seen: list[str] = []
    path: str | None = "/v1/uploads?limit=2"
    while path is not None:
        page: dict[str, Any] = (await ada.get(path)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        path = f"/v1/uploads?limit=2&cursor={cursor}" if cursor else None
    assert seen == sent[::-1]
    assert (await ada.get("/v1/uploads?state=ready")).json() == {"items": [], "next_cursor": None}
    assert len((await ada.get("/v1/uploads?state=stored")).json()["items"]) == 5
    for bad in ("cursor=nonsense", "limit=0", "limit=101", "state=lost"):
        assert (await ada.get(f"/v1/uploads?{bad}")).status_code in {400, 422}, bad
    for call in (ada.get(f"/v1/uploads/{theirs}"), ada.delete(theirs), ada.complete(theirs)):
        assert (await call).status_code == 404
    assert (await bob.get(f"/v1/uploads/{theirs}")).status_code == 200
    await uploads.work()


async def test_an_upload_can_be_deleted_until_it_is_used(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    stored = (await ada.send(JPEG)).json()["id"]
    answer = await ada.delete(stored)
    assert (answer.status_code, answer.json()["reason"]) == (409, "upload_in_work")
    await uploads.work()
    _use(uploads, ada, stored)
    answer = await ada.delete(stored)
    assert (answer.status_code, answer.json()["reason"]) == (409, "upload_in_use")
    assert len(uploads.stored_keys()) == 2

    other = (await ada.send(PNG, "other.png")).json()["id"]
    await uploads.work()
    assert (await ada.delete(other)).status_code == 204
    assert (await ada.delete(other)).status_code == 404
    assert await uploads.work() == ["done"]
    assert {key.split("/")[1] for key in uploads.stored_keys()} == {stored}
    assert len(uploads.stored_files()) == 2


def _use(uploads: UploadsHarness, person: Uploader, upload_id: str) -> None:
    uploads.database.sign_in(uuid.UUID(person.id))
    claims = json.dumps(user_claims(uuid.UUID(person.id)))
    uploads.database.rows(
        "with claims as materialized ("
        " select set_config('request.jwt.claims', %s, false))"
        " select app.start_generation(%s, 'cutout', %s, '{}') from claims",
        [claims, str(uuid.uuid4()), upload_id],
    )
    uploads.database.rows("delete from app.outbox where job = 'generation.dispatch'")


async def test_an_idempotency_key_makes_one_upload(uploads: UploadsHarness, ada: Uploader) -> None:
    first = await ada.send(JPEG, key="once")
    again = await ada.send(JPEG, key="once")
    assert first.json()["id"] == again.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = await ada.send(PNG, "ring.png", key="once")
    assert (other.status_code, other.json()["type"].rpartition("/")[2]) == (
        422,
        "idempotency-mismatch",
    )
    renamed = await ada.send(JPEG, "other.jpg", key="once")
    assert renamed.status_code == 422
    assert len(uploads.rows()) == 1
    await uploads.work()
    ready = await ada.send(JPEG, key="once", wait=5)
    assert (ready.status_code, ready.json()["state"]) == (201, "ready")
    assert uploads.files_of(first.json()["id"]) == RENDERED


async def test_twenty_clients_with_one_key_make_one_upload(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    async def send() -> str:
        for _ in range(40):
            answer = await ada.send(JPEG, key="race")
            if answer.status_code == 202:
                return str(answer.json()["id"])
            # Two of a person are in hand at a time: on a slow machine the last waits too long.
            assert answer.status_code in {409, 429}, answer.json()
            await asyncio.sleep(0.05)
        raise AssertionError("never answered")

    ids = await asyncio.gather(*(send() for _ in range(20)))
    assert len(set(ids)) == 1
    await uploads.work()
    assert uploads.files_of(ids[0]) == RENDERED
    assert len(uploads.rows()) == 1
    assert len(uploads.stored_keys()) == 2
    assert len(uploads.stored_files()) == 2
