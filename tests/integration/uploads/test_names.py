"""Names and declared types of photos: they are shown, and refuse nothing."""

import httpx
import pytest

from tests.integration.uploads.conftest import Uploader, UploadsHarness
from tests.integration.uploads.files import JPEG
from tests.integration.uploads.test_multipart import BOUNDARY, END
from tests.unit.pixels.test_cases import CASES

MISNAMED = ["jpeg-named-heic.HEIC", "jpeg-named-png.png", "webp-named-jpg.jpg"]
TYPES = [
    "multipart/form-data", "image", "text/plain", "image/x-jpeg", "application/x-jpg",
    "image/jfif", "null", "application/pdf", "image/png",
]  # fmt: skip


async def test_the_bytes_decide_and_not_the_name(uploads: UploadsHarness, ada: Uploader) -> None:
    """Nobody can rename a photo in a phone's picker."""
    for name in [*MISNAMED, "ring.php", "ring.jpg.exe"]:
        data = (CASES / name).read_bytes() if name in MISNAMED else JPEG
        answer = await ada.send(data, name)
        assert (answer.status_code, answer.json()["file_name"]) == (202, name)
    await uploads.work()
    shown = (await ada.get("/v1/uploads")).json()["items"]
    assert {upload["state"] for upload in shown} == {"ready"}
    assert [each["source_format"] for each in shown] == [*["jpeg"] * 2, "webp", *["jpeg"] * 2]


async def test_the_bytes_decide_and_not_the_declared_type(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    for declared in TYPES:
        assert (await ada.send(JPEG, content_type=declared)).status_code == 202, declared
    await uploads.work()


async def test_a_direct_upload_may_be_called_anything(
    uploads: UploadsHarness, ada: Uploader
) -> None:
    for name in MISNAMED:
        data = (CASES / name).read_bytes()
        for declared in ("image/png", "image/jpg", "application/octet-stream"):
            direct = (await ada.start_direct(data, name, declared)).json()
            assert (await uploads.put(direct, data)).status_code == 200
            assert (await ada.complete(direct["id"])).status_code == 202
    await uploads.work()
    assert {row["state"] for row in uploads.rows()} == {"ready"}
    assert {tuple(uploads.files_of(row["id"])) for row in uploads.rows()} == {("normal", "thumb")}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"filename*=UTF-8''f%C3%BCr%20dich.jpg", "für dich.jpg"),
        (b"filename=\"x.jpg\"; filename*=UTF-8''%E6%8C%87.jpg", "指.jpg"),
        ('filename="für.jpg"'.encode(), "für.jpg"),
        ('filename="für.jpg"'.encode("latin-1"), "für.jpg"),
        (b"filename*=nonsense''%ff.jpg", None),
    ],
)
async def test_a_name_is_kept_however_it_is_written(
    uploads: UploadsHarness, ada: Uploader, sent: bytes, shown: str | None
) -> None:
    answer = await _send_named(ada, sent)
    assert (answer.status_code, answer.json()["file_name"]) == (202, shown)
    await uploads.work()


async def test_a_long_name_is_shortened(uploads: UploadsHarness, ada: Uploader) -> None:
    answer = await _send_named(ada, b'filename="' + b"r" * 6_000 + b'.jpg"')
    assert answer.status_code == 202
    assert answer.json()["file_name"].endswith("r.jpg")
    await uploads.work()


async def _send_named(person: Uploader, parameters: bytes) -> httpx.Response:
    disposition = b'Content-Disposition: form-data; name="file"; ' + parameters
    body = f"--{BOUNDARY}\r\n".encode() + disposition + b"\r\n\r\n" + JPEG + b"\r\n" + END
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    return await person.client.post(
        "/v1/uploads", content=body, headers=person.headers | {"Content-Type": content_type}
    )
