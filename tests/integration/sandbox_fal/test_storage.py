"""Uploads as the two SDKs make them."""

from datetime import datetime

import httpx

from tests.integration.sandbox_fal.support import Fal, wait_for

CONTENT = b"\xff\xd8 not really"


def test_upload_with_a_token(fal: Fal) -> None:
    issued = fal.http.post("/storage/auth/token?storage_type=fal-cdn-v3", json={}).json()
    assert datetime.fromisoformat(issued["expires_at"]).tzinfo is not None

    answer = httpx.post(
        f"{issued['base_url']}/files/upload",
        content=CONTENT,
        headers={
            "authorization": f"{issued['token_type']} {issued['token']}",
            "content-type": "image/jpeg",
            "x-fal-file-name": "../my ring.jpg",
        },
    )
    file = httpx.get(answer.json()["access_url"])
    assert file.content == CONTENT
    assert file.headers["content-type"] == "image/jpeg"
    assert answer.json()["access_url"].endswith("..myring.jpg")


def test_upload_by_initiate_and_put(fal: Fal) -> None:
    begun = fal.http.post(
        "/storage/upload/initiate?storage_type=fal-cdn-v3",
        json={"content_type": "image/png", "file_name": "a.png"},
        headers={"x-fal-object-lifecycle": '{"expiration_duration_seconds": 1}'},
    ).json()
    assert httpx.get(begun["file_url"]).status_code == 404

    put = httpx.put(begun["upload_url"], content=CONTENT, headers={"content-type": "image/png"})
    assert put.status_code == 200
    file = httpx.get(begun["file_url"])
    assert (file.content, file.headers["content-type"]) == (CONTENT, "image/png")
    assert httpx.put(begun["upload_url"], content=b"again").status_code == 404
    wait_for(lambda: httpx.get(begun["file_url"]).status_code == 404)


def test_uploads_need_a_key_or_a_token(fal: Fal) -> None:
    for path in ("/storage/auth/token", "/storage/upload/initiate"):
        assert httpx.post(f"{fal.base_url}{path}", json={}).status_code == 401
    answer = httpx.post(
        f"{fal.base_url}/files/upload",
        content=CONTENT,
        headers={"authorization": "Bearer made-up"},
    )
    assert answer.status_code == 401
