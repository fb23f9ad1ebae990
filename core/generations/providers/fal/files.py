"""Files at the provider: downloading outputs, and uploading photos that fal cannot fetch.

The key goes to the configured REST host only, never to where files live.
"""

import asyncio
import base64
import binascii
from fnmatch import fnmatchcase
from urllib.parse import unquote_to_bytes

import httpx

from core.errors import FailureKind, RetryableError
from core.generations.providers.fal.answers import Reply, read_json, retry_after_seconds
from core.generations.providers.fal.urls import same_origin
from core.generations.providers.types import (
    OutputLoss,
    OutputMissingError,
    OutputRefusal,
    OutputRefusedError,
    OutputTooLargeError,
    UploadError,
)
from core.settings import Settings, is_loopback

# A 4K PNG is 30 MB: a minute at 4 Mbit/s.
DOWNLOAD_SECONDS_MAX = 60.0
# A file that comes slower than this holds a place for nothing, be it a byte a second or silence:
# the next try may meet another server.
DOWNLOAD_GRACE_SECONDS = 8.0
DOWNLOAD_BYTES_PER_SECOND_MIN = 32_000
UPLOAD_SECONDS_MAX = 60.0
_TIMEOUT = httpx.Timeout(20, connect=5)
_UPLOAD_TIMEOUT = httpx.Timeout(60, connect=5)
_MISSING_STATUSES = frozenset({404, 410})
_PASSING_STATUSES = frozenset({401, 403, 408, 425, 429})
LIFECYCLE_SECONDS = 7 * 86_400


class FalFiles:
    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        *,
        grace_seconds: float = DOWNLOAD_GRACE_SECONDS,
    ) -> None:
        self._http = http
        self._grace_seconds = grace_seconds
        self._hosts = tuple(pattern.lower() for pattern in settings.fal_output_hosts)
        self._rest_url = settings.fal_rest_url
        self._rest_is_local = is_loopback(settings.fal_rest_url)
        # A stand-in serves files itself, over http: from this machine, or from its own address.
        self._is_production = settings.is_production
        self._queue_url = settings.fal_queue_url

    # -- download -----------------------------------------------------------------------------

    async def download(self, url: str, *, max_bytes: int) -> bytes:
        """The bytes at an output's URL, at most `max_bytes`. Follows no redirect.

        Raises: OutputMissingError (404, 410, empty, a redirect, another 4xx: for a while),
        RetryableError (5xx, timeouts, broken transfer),
        OutputTooLargeError, OutputRefusedError (a URL that is not allowed).
        """
        if url[:5].lower() == "data:":
            return _read_data_uri(url, max_bytes)
        self._require_allowed(url)
        try:
            async with asyncio.timeout(self._grace_seconds) as limit:
                return await self._get(url, max_bytes, limit)
        except httpx.HTTPError as error:
            raise RetryableError(
                f"output download: {type(error).__name__}", kind=FailureKind.ABSENT
            ) from error
        except TimeoutError as error:
            raise RetryableError("output download: too slow", kind=FailureKind.ABSENT) from error

    async def _get(self, url: str, max_bytes: int, limit: asyncio.Timeout) -> bytes:
        """Each byte that comes puts the limit off."""
        began = asyncio.get_running_loop().time()
        async with self._http.stream(
            "GET",
            url,
            # Images do not compress; without an encoding the cap counts what is on the wire.
            headers={"Accept": "image/*", "Accept-Encoding": "identity"},
            timeout=_TIMEOUT,
            follow_redirects=False,
        ) as response:
            _require_file(response)
            size = response.headers.get("content-length", "")
            if size.isdecimal() and int(size) > max_bytes:
                raise OutputTooLargeError
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > max_bytes:
                    raise OutputTooLargeError
                earned = self._grace_seconds + len(content) / DOWNLOAD_BYTES_PER_SECOND_MIN
                limit.reschedule(began + min(earned, DOWNLOAD_SECONDS_MAX))
            if size.isdecimal() and len(content) < int(size):
                raise RetryableError("output download: ended early", kind=FailureKind.ABSENT)
        if not content:
            raise OutputMissingError("output download: empty file")
        return bytes(content)

    def _require_allowed(self, url: str) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise OutputRefusedError(OutputRefusal.URL_NOT_ALLOWED) from None
        if parsed.userinfo:
            raise OutputRefusedError(OutputRefusal.URL_NOT_ALLOWED)
        if self._is_of_stand_in(url):
            return
        host = parsed.host.lower()
        names = [f"{host}:{parsed.port or 443}"]
        if parsed.port is None:
            names.append(host)
        is_listed = any(fnmatchcase(name, pattern) for name in names for pattern in self._hosts)
        if parsed.scheme != "https" or not is_listed:
            raise OutputRefusedError(OutputRefusal.URL_NOT_ALLOWED)

    def _is_of_stand_in(self, url: str) -> bool:
        if self._is_production or not url.startswith(("http://", "https://")):
            return False
        if same_origin(url, self._queue_url):
            return True
        return is_loopback(self._queue_url) and is_loopback(url)

    # -- upload -------------------------------------------------------------------------------

    async def upload(
        self, data: bytes, *, content_type: str, file_name: str, authorization: str
    ) -> str:
        """A URL that fal can fetch, for a photo whose own URL it cannot.

        Raises: UploadError.  Replay: another file, which ends by itself after seven days.
        Source: https://docs.fal.ai/model-apis/fal-cdn (`storage/upload/initiate`).
        """
        try:
            async with asyncio.timeout(UPLOAD_SECONDS_MAX):
                upload_url, file_url = await self._initiate(content_type, file_name, authorization)
                response = await self._http.put(
                    upload_url,
                    content=data,
                    headers={"Content-Type": content_type},  # no key: the URL is the permission
                    timeout=_UPLOAD_TIMEOUT,
                    follow_redirects=False,
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise UploadError(f"input upload: {type(error).__name__}") from error
        if not response.is_success:
            raise UploadError(f"input upload: HTTP {response.status_code}")
        return file_url

    async def _initiate(
        self, content_type: str, file_name: str, authorization: str
    ) -> tuple[str, str]:
        try:
            response = await self._http.post(
                f"{self._rest_url}/storage/upload/initiate",
                params={"storage_type": "fal-cdn-v3"},
                json={"content_type": content_type, "file_name": file_name},
                headers={
                    "Authorization": authorization,
                    "X-Fal-Object-Lifecycle": (
                        f'{{"expiration_duration_seconds": {LIFECYCLE_SECONDS}}}'
                    ),
                },
                timeout=_TIMEOUT,
                follow_redirects=False,
            )
        except httpx.HTTPError as error:
            raise UploadError(f"input upload: {type(error).__name__}") from error
        reply = Reply(
            response.status_code, response.headers, response.content, read_json(response.content)
        )
        if not reply.is_success:
            raise _initiate_refused(reply)
        data = reply.data if isinstance(reply.data, dict) else {}
        urls = data.get("upload_url"), data.get("file_url")
        if not all(isinstance(url, str) and self._is_storage(url) for url in urls):
            raise UploadError("input upload: unusable answer")
        return str(urls[0]), str(urls[1])

    def _is_storage(self, url: str) -> bool:
        """fal uses URLs of several stores; plain http only where fal itself is local."""
        return url.startswith("https://") or (self._rest_is_local and is_loopback(url))


def _initiate_refused(reply: Reply) -> UploadError:
    reason = f"input upload: HTTP {reply.status}"
    if reply.status == 401:
        return UploadError(reason, account_effect="key_refused")
    if reply.status in {402, 403}:
        return UploadError(reason, account_effect="locked")
    if reply.status == 429:
        return UploadError(
            reason, account_effect="cooldown", retry_after_seconds=retry_after_seconds(reply)
        )
    return UploadError(reason)


def _require_file(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if status in _MISSING_STATUSES:
        raise OutputMissingError(f"output download: HTTP {status}")
    if status in _PASSING_STATUSES or status >= 500 or status < 300:
        raise RetryableError(f"output download: HTTP {status}", kind=FailureKind.ABSENT)
    # A gatekeeper in front of the files may answer so for a moment.
    raise OutputMissingError(
        f"output download: HTTP {status}",
        OutputLoss.REDIRECTED if status < 400 else OutputLoss.FILE_REFUSED,
    )


def _read_data_uri(url: str, max_bytes: int) -> bytes:
    head, comma, data = url.partition(",")
    if not comma:
        raise OutputRefusedError(OutputRefusal.BAD_DATA_URI)
    is_base64 = head.lower().endswith(";base64")
    if len(data) > 4 * max_bytes:  # more than any encoding of so few bytes needs
        raise OutputTooLargeError
    try:
        raw = unquote_to_bytes(data)
        content = base64.b64decode(raw, validate=True) if is_base64 else raw
    except (binascii.Error, ValueError):
        raise OutputRefusedError(OutputRefusal.BAD_DATA_URI) from None
    if len(content) > max_bytes:
        raise OutputTooLargeError
    if not content:
        raise OutputMissingError("output download: empty data URI")
    return content
