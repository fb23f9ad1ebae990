"""Storage through the official client, and by plain HTTP where programs fetch signed links."""

import asyncio

import pytest
from storage3.exceptions import StorageApiError
from storage3.types import CreateSignedUploadUrlOptions

from tests.harness.database import TestDatabase
from tests.integration.sandbox_supabase.conftest import BASE_URL, Sandbox, as_type

STORAGE = f"{BASE_URL}/storage/v1"


async def test_buckets_read_back_as_the_client_models_them(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("open", options={"public": True})
    bucket = await admin.storage.get_bucket("open")
    assert (bucket.owner, bucket.public, bucket.allowed_mime_types) == ("", True, None)
    await admin.storage.update_bucket("open", options={"public": False, "file_size_limit": 10})
    assert (await admin.storage.get_bucket("open")).file_size_limit == 10
    assert "open" in {found.id for found in await admin.storage.list_buckets()}


async def test_exists_does_not_raise_for_what_is_missing(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b")
    bucket = admin.storage.from_("b")
    assert await bucket.exists("none.txt") is False
    await bucket.upload("some.txt", b"x", as_type("text/plain"))
    assert await bucket.exists("some.txt") is True
    found = await bucket.info("some.txt")
    assert (found["size"], found["content_type"]) == (1, "text/plain")


async def test_signed_links_work_as_the_client_builds_them(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b")
    bucket = admin.storage.from_("b")
    content = bytes(range(256)) * 4096
    await bucket.upload("f/a b.bin", content, as_type("application/octet-stream"))
    signed = await bucket.create_signed_url("f/a b.bin", 60, {"download": "é.bin"})
    many = await bucket.create_signed_urls(["f/a b.bin", "none"], 60)
    assert [entry["error"] is None for entry in many] == [True, False]
    async with sandbox.http() as client:
        assert signed["signedURL"] is not None
        whole = await client.get(signed["signedURL"])
        assert whole.content == content
        assert whole.headers["content-disposition"].endswith("filename*=UTF-8''%C3%A9.bin")
        tail = await client.get(signed["signedURL"], headers={"range": "bytes=-3"})
        assert (tail.status_code, tail.content) == (206, content[-3:])
        assert tail.headers["content-range"] == f"bytes 1048573-1048575/{len(content)}"
        beyond = await client.get(signed["signedURL"], headers={"range": "bytes=9999999-"})
        assert beyond.status_code == 416
        same = await client.get(
            signed["signedURL"], headers={"if-none-match": whole.headers["etag"]}
        )
        assert (same.status_code, same.content) == (304, b"")


async def test_signed_uploads_keep_the_signer_as_owner(
    sandbox: Sandbox, database: TestDatabase
) -> None:
    database.rows(
        "create policy any_insert on storage.objects for insert to authenticated with check (true)"
    )
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b", options={"file_size_limit": 4})
    client = await sandbox.signed_in("owner@example.com")
    signed = await client.storage.from_("b").create_signed_upload_url("x.txt")
    stranger = await sandbox.supabase()
    bucket = stranger.storage.from_("b")
    with pytest.raises(StorageApiError) as caught:
        await bucket.upload_to_signed_url("x.txt", signed["token"], b"too large")
    assert caught.value.status == "413"
    await bucket.upload_to_signed_url("x.txt", signed["token"], b"fine", as_type("text/plain"))
    user = await client.auth.get_user()
    assert user is not None
    row = database.row("select owner_id, owner::text from storage.objects where bucket_id = 'b'")
    assert row == {"owner_id": user.user.id, "owner": user.user.id}
    again = await admin.storage.from_("b").create_signed_upload_url(
        "x.txt", CreateSignedUploadUrlOptions(upsert="true")
    )
    for content in (b"one", b"two"):
        await bucket.upload_to_signed_url("x.txt", again["token"], content)
    assert await admin.storage.from_("b").download("x.txt") == b"two"


async def test_a_private_object_looks_missing_to_strangers(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b")
    await admin.storage.from_("b").upload("x.txt", b"x")
    stranger = await sandbox.supabase()
    with pytest.raises(StorageApiError) as caught:
        await stranger.storage.from_("b").download("x.txt")
    assert (caught.value.status, caught.value.code) == ("404", "not_found")
    async with sandbox.http() as client:
        answer = await client.get(f"{STORAGE}/object/b/x.txt")
        assert answer.json()["code"] == "NoSuchBucket"


async def test_replaced_and_removed_bytes_do_not_pile_up(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b")
    bucket = admin.storage.from_("b")
    await bucket.upload("x.txt", b"0")
    for number in range(3):
        await bucket.update("x.txt", str(number).encode())
    await bucket.copy("x.txt", "y.txt")
    await bucket.remove(["x.txt"])
    assert await bucket.download("y.txt") == b"2"
    files = list(sandbox.config.data_dir.joinpath("objects").rglob("*-*-*"))
    assert len(files) == 1


async def test_of_uploads_at_once_one_wins_and_the_others_leave_nothing(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b")
    bucket = admin.storage.from_("b")
    results = await asyncio.gather(
        *(bucket.upload("x.txt", str(number).encode()) for number in range(6)),
        return_exceptions=True,
    )
    lost = [result for result in results if isinstance(result, StorageApiError)]
    assert [error.status for error in lost] == ["409"] * 5
    files = list(sandbox.config.data_dir.joinpath("objects").rglob("*-*-*"))
    assert len(files) == 1


async def test_listing_pages(sandbox: Sandbox) -> None:
    admin = await sandbox.admin()
    await admin.storage.create_bucket("b")
    bucket = admin.storage.from_("b")
    for name in ("a_1.txt", "aX1.txt", "f/1.txt", "f/2.txt", "z.txt"):
        await bucket.upload(name, b"x")
    listed = await bucket.list("", {"search": "a_", "limit": 10})
    assert [entry["name"] for entry in listed] == ["a_1.txt"]
    page = await bucket.list("", {"limit": 2, "offset": 1})
    assert [entry["name"] for entry in page] == ["a_1.txt", "f"]
    names, cursor = [], None
    while True:
        body = {"prefix": "", "limit": 2, "with_delimiter": True, "cursor": cursor}
        async with sandbox.http(apikey=sandbox.config.secret_key) as client:
            answer = (await client.post(f"{STORAGE}/object/list-v2/b", json=body)).json()
        names += [entry["key"] for entry in answer["folders"] + answer["objects"]]
        cursor = answer.get("nextCursor")
        if cursor is None:
            break
    assert sorted(names) == ["aX1.txt", "a_1.txt", "f", "z.txt"]


async def test_browsers_may_upload_from_another_origin(sandbox: Sandbox) -> None:
    headers = {
        "origin": "http://127.0.0.1:8000",
        "access-control-request-method": "PUT",
        "access-control-request-headers": "content-type",
    }
    async with sandbox.http() as client:
        preflight = await client.options(f"{STORAGE}/object/upload/sign/b/x", headers=headers)
    assert preflight.is_success
    assert preflight.headers["access-control-allow-origin"] == "*"
