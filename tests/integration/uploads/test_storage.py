"""The vendor's client behind our protocol, against the stand-in: bytes, URLs, errors."""

import httpx
import pytest
from structlog.testing import capture_logs

from core.errors import ConflictError, NotFoundError, PermanentError
from core.pixels.errors import PayloadTooLargeError
from core.settings import Settings
from core.storage.errors import StorageUnavailableError
from core.storage.supabase import SupabaseStorage
from core.storage.types import Storage
from scripts.seed import UPLOAD_BYTES_MAX, ensure_buckets
from tests.integration.uploads.conftest import UploadsHarness

KEY = "0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6/x/normal.jpg"
BUCKET = "uploads"


@pytest.fixture
def storage(uploads: UploadsHarness) -> Storage:
    return uploads.ctx.storage


async def test_put_replaces_get_reads_delete_forgets(storage: Storage) -> None:
    await storage.put(BUCKET, KEY, b"first", "image/jpeg")
    await storage.put(BUCKET, KEY, b"second", "image/jpeg")
    assert await storage.get(BUCKET, KEY) == b"second"
    assert await storage.size(BUCKET, KEY) == len(b"second")
    await storage.delete(BUCKET, [KEY, "never/was.jpg"])
    for read in (storage.get, storage.size):
        with pytest.raises(NotFoundError):
            await read(BUCKET, KEY)
    await storage.delete(BUCKET, [])


async def test_signed_urls_are_absolute_and_need_no_credential(
    uploads: UploadsHarness, storage: Storage
) -> None:
    await storage.put(BUCKET, KEY, b"bytes", "image/jpeg")
    url = await storage.sign(BUCKET, KEY, 60)
    assert (await uploads.storage_client.get(url)).content == b"bytes"
    named = await storage.sign(BUCKET, KEY, 60, download_name="my ring.jpg")
    answer = await uploads.storage_client.get(named)
    assert "my%20ring.jpg" in answer.headers["content-disposition"]
    first, missing = await storage.sign_many(BUCKET, [KEY, "no/such.jpg"], 60)
    assert first is not None
    assert (await uploads.storage_client.get(first)).content == b"bytes"
    assert missing is None
    assert await storage.sign_many(BUCKET, [], 60) == []
    with pytest.raises(NotFoundError):
        await storage.sign(BUCKET, "no/such.jpg", 60)


async def test_a_signed_upload_takes_bytes_once(uploads: UploadsHarness, storage: Storage) -> None:
    signed = await storage.sign_upload(BUCKET, KEY)
    headers = {"Content-Type": "image/jpeg"}
    first = await uploads.storage_client.put(signed.url, content=b"mine", headers=headers)
    assert first.status_code == 200
    again = await uploads.storage_client.put(signed.url, content=b"other", headers=headers)
    assert again.json()["statusCode"] == "409"
    assert await storage.get(BUCKET, KEY) == b"mine"
    with pytest.raises(ConflictError):
        await storage.sign_upload(BUCKET, KEY)
    left = (signed.expires_at.timestamp() - first.elapsed.total_seconds()) > 0
    assert left


async def test_one_lost_answer_is_asked_again(uploads: UploadsHarness, storage: Storage) -> None:
    await uploads.fault(path_contains="/object/uploads", when="after", status=502, body="<html>")
    await storage.put(BUCKET, KEY, b"bytes", "image/jpeg")
    assert await storage.get(BUCKET, KEY) == b"bytes"


TROUBLE = [
    (503, '{"message":"secret host","error":"Fault","statusCode":"503"}'),
    (502, "<html>secret host</html>"),
    (429, '{"message":"secret","error":"Throttled","statusCode":"429"}'),
    (200, "<html>secret host</html>"),
    (400, '{"message":"secret","error":"Bucket not found","statusCode":"404"}'),
]


async def test_trouble_is_one_error_without_the_vendors_words(
    uploads: UploadsHarness, storage: Storage
) -> None:
    for status, body in TROUBLE:
        await uploads.fault(path_contains="/object/", status=status, body=body, times=None)
        for call in (
            storage.put(BUCKET, KEY, b"x", "image/jpeg"),
            storage.size(BUCKET, KEY),
            storage.sign(BUCKET, KEY, 60),
            storage.sign_many(BUCKET, [KEY], 60),
            storage.sign_upload(BUCKET, KEY),
            storage.delete(BUCKET, [KEY]),
        ):
            with pytest.raises(StorageUnavailableError) as caught:
                await call
            assert "secret" not in repr(caught.value), status
            assert caught.value.fields == {"what": "storage"}
        await uploads.storage_client.delete("/__control/faults")


async def test_what_a_bucket_refuses(storage: Storage) -> None:
    with pytest.raises(PermanentError) as caught:
        await storage.put(BUCKET, KEY, b"%PDF", "application/pdf")
    assert "pdf" not in str(caught.value)
    with pytest.raises(PayloadTooLargeError):
        await storage.put(BUCKET, KEY, b"x" * (UPLOAD_BYTES_MAX + 1), "image/jpeg")


async def test_a_store_that_is_away(uploads: UploadsHarness) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused to secret host", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as http:
        away = SupabaseStorage(uploads.ctx.settings, http)
        with pytest.raises(StorageUnavailableError) as caught:
            await away.get(BUCKET, KEY)
    assert "secret" not in repr(caught.value)


def _api_error(status: int, inner: str) -> httpx.Response:
    body = {"statusCode": inner, "error": "Fault", "message": "secret host"}
    return httpx.Response(status, json=body)


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        (_api_error(503, "503"), 2),
        (_api_error(400, "429"), 2),
        (httpx.Response(502, text="<html>secret host"), 2),
        (httpx.Response(200, text="<html>secret host"), 2),
        (httpx.ConnectError("secret host"), 2),
        (httpx.ReadTimeout("secret host"), 1),
        (_api_error(400, "404"), 1),
        (_api_error(400, "403"), 1),
    ],
)
async def test_only_what_may_pass_at_once_is_asked_again(
    uploads: UploadsHarness, answer: httpx.Response | httpx.HTTPError, calls: int
) -> None:
    asked: list[str] = []

    def say(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if isinstance(answer, httpx.HTTPError):
            raise answer
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(say)) as http:
        storage = SupabaseStorage(uploads.ctx.settings, http)
        with capture_logs() as lines, pytest.raises(StorageUnavailableError):
            await storage.size(BUCKET, KEY)
    assert len(asked) == calls
    assert [line["event"] for line in lines].count("call.retried") == calls - 1
    assert "secret" not in str(lines)


async def test_buckets_are_private_and_making_them_may_repeat(
    uploads: UploadsHarness, storage: Storage
) -> None:
    settings: Settings = uploads.ctx.settings
    assert await ensure_buckets(settings, uploads.storage_client) == ["uploads", "results"]
    await storage.put(BUCKET, KEY, b"bytes", "image/jpeg")
    public = await uploads.storage_client.get(f"/storage/v1/object/public/{BUCKET}/{KEY}")
    assert public.json()["statusCode"] == "404"
    rows = uploads.database.rows(
        "select id, public, file_size_limit from storage.buckets order by 1"
    )
    assert [(row["id"], row["public"]) for row in rows] == [("results", False), ("uploads", False)]
    assert rows[1]["file_size_limit"] == UPLOAD_BYTES_MAX
