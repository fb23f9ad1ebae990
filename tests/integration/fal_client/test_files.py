"""Fetching outputs and lending inputs."""

import asyncio
import base64

import httpx
import pytest

from core.errors import FailureKind, RetryableError
from core.generations.providers.fal.client import FalClient, ModelOutput
from core.generations.providers.fal.files import FalFiles
from core.generations.providers.fal.provider import FalProvider
from core.generations.providers.types import (
    OutputMissingError,
    OutputRefusedError,
    OutputTooLargeError,
    UploadError,
)
from core.settings import Environment, Settings
from tests.integration.fal_client.support import (
    CUTOUT,
    FINGERPRINT,
    SECRET,
    Behaviour,
    Fal,
    fal_settings,
    resets,
    says,
    says_raw,
    wire,
)

MIB = 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n"


async def _output_url(fal: Fal) -> str:
    outcome = await fal.ended(CUTOUT)
    assert isinstance(outcome, ModelOutput)
    return str(outcome.payload["image"]["url"])


async def _download(http: httpx.AsyncClient, behaviour: Behaviour, max_bytes: int) -> bytes:
    async with wire(behaviour) as server:
        client = FalClient(fal_settings(server.base_url), http)
        return await client.download(f"{server.base_url}/files/a.png", max_bytes=max_bytes)


async def test_an_output_is_fetched_without_the_key(fal: Fal) -> None:
    url = await _output_url(fal)
    fal.sent.clear()
    content = await fal.client.download(url, max_bytes=8 * MIB)
    assert content.startswith(PNG)
    (request,) = fal.sent
    assert "authorization" not in request.headers
    assert SECRET not in str(request.headers.raw)


async def test_a_missing_file_may_come(fal: Fal) -> None:
    await fal.fault("output_missing")
    with pytest.raises(OutputMissingError) as error:
        await fal.client.download(await _output_url(fal), max_bytes=MIB)
    assert isinstance(error.value, RetryableError)


async def test_a_file_of_another_host_is_not_fetched(fal: Fal) -> None:
    await fal.fault("output_foreign_host")
    url = await _output_url(fal)
    fal.sent.clear()
    with pytest.raises(OutputRefusedError) as error:
        await fal.client.download(url, max_bytes=MIB)
    assert error.value.reason == "url_not_allowed"
    assert fal.sent == []


async def test_a_huge_file_is_cut_off(fal: Fal) -> None:
    await fal.fault("output_huge", size_bytes=4 * MIB)
    with pytest.raises(OutputTooLargeError):
        await fal.client.download(await _output_url(fal), max_bytes=MIB)


async def test_a_file_that_hides_its_size_is_cut_off(plain_http: httpx.AsyncClient) -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + bytes(MIB)
    with pytest.raises(OutputTooLargeError):
        await _download(plain_http, says_raw(endless), 64 * 1024)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(says(500, b""), id="500"),
        pytest.param(says(503, b"<html>nginx"), id="503"),
        pytest.param(says(403, b""), id="403"),
        pytest.param(says(429, b""), id="429"),
        pytest.param(says(204, b""), id="204"),
        pytest.param(resets, id="reset"),
        pytest.param(says_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), id="half"),
    ],
)
async def test_what_may_pass_is_retryable(
    plain_http: httpx.AsyncClient, behaviour: Behaviour
) -> None:
    with pytest.raises(RetryableError) as error:
        await _download(plain_http, behaviour, MIB)
    assert not isinstance(error.value, OutputMissingError)


@pytest.mark.parametrize("behaviour", [says(404, b""), says(410, b""), says(200, b"")])
async def test_what_is_missing(plain_http: httpx.AsyncClient, behaviour: Behaviour) -> None:
    with pytest.raises(OutputMissingError):
        await _download(plain_http, behaviour, MIB)


def _slowly(chunk: bytes, pause_seconds: float, count: int) -> Behaviour:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(chunk) * count
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        for _number in range(count):
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return behave


async def _silent_after_a_byte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")
    await writer.drain()
    await reader.read()  # until the client has gone


async def _download_slowly(
    http: httpx.AsyncClient, behaviour: Behaviour, *, grace_seconds: float
) -> bytes:
    async with wire(behaviour) as server:
        files = FalFiles(fal_settings(server.base_url), http, grace_seconds=grace_seconds)
        return await files.download(f"{server.base_url}/files/a.png", max_bytes=MIB)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(_slowly(b"x", 0.05, 400), id="dripping"),
        pytest.param(_silent_after_a_byte, id="silent"),
    ],
)
async def test_a_file_that_drips_is_given_up_soon(
    plain_http: httpx.AsyncClient, behaviour: Behaviour
) -> None:
    """Neither would a timeout between two bytes notice."""
    async with asyncio.timeout(10):
        with pytest.raises(RetryableError) as error:
            await _download_slowly(plain_http, behaviour, grace_seconds=0.3)
    assert error.value.kind is FailureKind.ABSENT
    assert not isinstance(error.value, OutputMissingError)


async def test_a_file_that_comes_steadily_has_its_time(plain_http: httpx.AsyncClient) -> None:
    steady = _slowly(bytes(20_000), 0.05, 20)
    assert len(await _download_slowly(plain_http, steady, grace_seconds=0.3)) == 400_000


async def test_redirects_are_not_followed(plain_http: httpx.AsyncClient) -> None:
    async with wire(says(200, PNG)) as other:
        with pytest.raises(OutputMissingError) as error:
            await _download(plain_http, says(302, b"", location=f"{other.base_url}/a.png"), MIB)
    assert error.value.loss == "redirected"
    assert other.requests == []


ALLOWED = [
    "https://fal.media/files/a.png",
    "https://v3.fal.media/files/a.png",
    "https://V3B.FAL.MEDIA/files/a.png",
]
REFUSED = [
    "http://fal.media/files/a.png",
    "https://fal.media.evil.example/a.png",
    "https://evilfal.media/a.png",
    "https://fal.media:8443/a.png",
    "https://user:secret@fal.media/a.png",
    "https://fal.media@evil.example/a.png",
    "https://127.0.0.1/a.png",
    "http://localhost:9000/a.png",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "ftp://fal.media/a.png",
    "//fal.media/a.png",
    "a.png",
    "",
    "https://[::1",
    "https://fal.media\n.evil.example/a.png",
]


def _production_settings() -> Settings:
    return fal_settings(
        "https://queue.fal.run",
        fal_rest_url="https://rest.fal.ai",
        fal_jwks_url="https://rest.fal.ai/.well-known/jwks.json",
        supabase_url="https://project.supabase.co",
        app_env=Environment.PRODUCTION,
        public_base_url="https://api.example.com",
        trusted_proxies=("none",),
        internal_api_secret=None,
    )


def _production_like(http: httpx.AsyncClient) -> FalClient:
    return FalClient(_production_settings(), http)


@pytest.mark.parametrize("url", ALLOWED)
async def test_hosts_that_are_listed(url: str) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=PNG)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        assert await _production_like(http).download(url, max_bytes=MIB) == PNG
    assert "authorization" not in asked[0].headers


@pytest.mark.parametrize("url", REFUSED)
async def test_hosts_that_are_not(url: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"asked {request.url}")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(OutputRefusedError) as error:
            await _production_like(http).download(url, max_bytes=MIB)
    assert error.value.reason == "url_not_allowed"


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:image/png;base64," + base64.b64encode(PNG).decode(), PNG),
        ("DATA:image/png;BASE64," + base64.b64encode(PNG).decode().replace("=", "%3D"), PNG),
        ("data:,%89PNG", b"\x89PNG"),
    ],
)
async def test_data_uris(plain_http: httpx.AsyncClient, url: str, content: bytes) -> None:
    assert await _production_like(plain_http).download(url, max_bytes=MIB) == content


@pytest.mark.parametrize(
    ("url", "error_class"),
    [
        ("data:image/png;base64", OutputRefusedError),
        ("data:image/png;base64,a", OutputRefusedError),
        ("data:image/png;base64,****", OutputRefusedError),
        ("data:image/png;base64,\u00e9\u00e9", OutputRefusedError),
        ("data:image/png;base64," + "A" * 4096, OutputTooLargeError),
        ("data:image/png;base64," + base64.b64encode(bytes(1025)).decode(), OutputTooLargeError),
        ("data:image/png;base64,", OutputMissingError),
    ],
)
async def test_bad_data_uris(
    plain_http: httpx.AsyncClient, url: str, error_class: type[Exception]
) -> None:
    with pytest.raises(error_class):
        await _production_like(plain_http).download(url, max_bytes=1024)


# --- upload --------------------------------------------------------------------------------------


async def test_a_photo_is_lent_and_can_be_fetched(fal: Fal) -> None:
    url = await fal.client.upload(b"a photo", "image/jpeg", "input.jpg", fingerprint=FINGERPRINT)
    initiate, put = fal.sent
    assert initiate.headers["authorization"] == f"Key {SECRET}"
    assert initiate.headers["x-fal-object-lifecycle"] == '{"expiration_duration_seconds": 604800}'
    assert "authorization" not in put.headers
    assert put.headers["content-type"] == "image/jpeg"
    assert await fal.client.download(url, max_bytes=MIB) == b"a photo"


async def _upload(http: httpx.AsyncClient, behaviour: Behaviour) -> str:
    async with wire(behaviour) as server:
        client = FalClient(fal_settings(server.base_url), http)
        return await client.upload(b"a", "image/png", "a.png", fingerprint=FINGERPRINT)


@pytest.mark.parametrize(
    ("behaviour", "effect"),
    [
        pytest.param(says(401, b"{}"), "key_refused", id="401"),
        pytest.param(says(403, b"{}"), "locked", id="403"),
        pytest.param(says(429, b"{}"), "cooldown", id="429"),
        pytest.param(says(500, b"{}"), "none", id="500"),
        pytest.param(says(200, b"{}"), "none", id="no URLs"),
        pytest.param(says(200, b'{"upload_url": "ftp://x", "file_url": "x"}'), "none", id="bad"),
        pytest.param(resets, "none", id="reset"),
    ],
)
async def test_storage_that_does_not_take_it(
    plain_http: httpx.AsyncClient, behaviour: Behaviour, effect: str
) -> None:
    with pytest.raises(UploadError) as error:
        await _upload(plain_http, behaviour)
    assert error.value.account_effect == effect


async def test_an_upload_is_needed_when_only_our_storage_is_local(
    plain_http: httpx.AsyncClient,
) -> None:
    assert not FalProvider(fal_settings(), plain_http).needs_upload
    assert FalProvider(fal_settings("https://queue.fal.run"), plain_http).needs_upload
    assert not FalProvider(_production_settings(), plain_http).needs_upload
