"""Reads a request's inputs for real: data URIs, the sandbox's own files, loopback URLs."""

import base64
import binascii
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from sandbox.fal.errors import Outcome, listed_error
from sandbox.fal.storage import PATH_PREFIX, FileStore
from sandbox.kit.guard import SandboxRefusedError, require_loopback
from sandbox.kit.tls import tls_context


class DownloadError(Exception):
    """The input could not be read; carries what the model answers."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.body.decode())
        self.outcome = outcome


class Downloader:
    def __init__(
        self,
        files: FileStore,
        *,
        transport: httpx.AsyncBaseTransport | None,
        extra_hosts: frozenset[str],
    ) -> None:
        self._files = files
        self._extra_hosts = extra_hosts
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(30, connect=5),
            transport=transport,
            verify=tls_context(),
            trust_env=False,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def read(self, field: str, url: str, *, base_url: str, bytes_max: int) -> bytes:
        """Raises: DownloadError."""
        if url.startswith("data:"):
            content = _read_data_uri(field, url)
        elif url.startswith(base_url + PATH_PREFIX):
            file = self._files.find(url.removeprefix(base_url).split("?", 1)[0])
            if file is None:
                raise DownloadError(_failed(field, url))
            content = file.content
        else:
            content = await self._get(field, url, bytes_max)
        if len(content) > bytes_max:
            raise DownloadError(_too_large(field, url, bytes_max))
        return content

    async def _get(self, field: str, url: str, bytes_max: int) -> bytes:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"}:
            raise DownloadError(_failed(field, url))
        if parts.hostname not in self._extra_hosts:
            try:
                require_loopback(parts.hostname or "")
            except SandboxRefusedError:
                raise DownloadError(_failed(field, url)) from None
        chunks = bytearray()
        try:
            async with self._client.stream("GET", url) as response:
                if response.status_code != 200:
                    raise DownloadError(_failed(field, url))
                async for chunk in response.aiter_bytes():
                    chunks += chunk
                    if len(chunks) > bytes_max:
                        raise DownloadError(_too_large(field, url, bytes_max))
        except (httpx.HTTPError, httpx.InvalidURL):
            raise DownloadError(_failed(field, url)) from None
        return bytes(chunks)


def _read_data_uri(field: str, url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(unquote_to_bytes(data), validate=True)
        return unquote_to_bytes(data)
    except (binascii.Error, ValueError):
        raise DownloadError(_failed(field, "data URI")) from None


def _failed(field: str, url: str) -> Outcome:
    return listed_error("file_download_error", field=field, received=url)


def _too_large(field: str, url: str, bytes_max: int) -> Outcome:
    return listed_error(
        "file_too_large",
        field=field,
        message=f"File size exceeds the maximum allowed size of {bytes_max} bytes.",
        ctx={"max_size": bytes_max},
        received=url[:200],
    )
