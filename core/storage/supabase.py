"""Supabase Storage through its official client, with the project's secret key.

The wire format is held by contract tests against the storage stand-in. The service
answers HTTP 400 to nearly everything; the true status is the string `statusCode` in the body.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from io import FileIO
from typing import Final, TypeVar

import httpx
import jwt
import structlog
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError
from storage3.types import (
    CreateSignedUploadUrlOptions,
    FileOptions,
    UploadResponse,
    URLOptions,
)
from storage3.utils import StorageException

from core.errors import ConflictError, NotFoundError, PermanentError
from core.pixels.errors import PayloadTooLargeError, PhotoReason
from core.retries import retrying
from core.settings import Settings
from core.storage.errors import StorageReason, StorageUnavailableError
from core.storage.types import SignedUpload

Result = TypeVar("Result")

log = structlog.get_logger()

# The platform's fixed life of a signed upload; it cannot be chosen by the caller.
SIGNED_UPLOAD_SECONDS: Final = 7200
_ONCE_MORE: Final = retrying(attempts=2, total_seconds=30, first_pause_seconds=0.1)
# Of one call with its repetition: a service that drips holds nobody longer.
_SECONDS_MAX: Final = 60
_OBJECT_MISSING: Final = "not_found"
# Keys in one request: well under the service's body limit of 1 MB.
_KEYS_AT_ONCE: Final = 500


class SupabaseStorage:
    """Implements core.storage.types.Storage. `http` is shared and closed by its owner."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        key = settings.supabase_secret_key.get_secret_value()
        self._client = AsyncStorageClient(
            f"{settings.supabase_url}/storage/v1/",  # the slash is needed to join signed URLs
            {"apiKey": key, "Authorization": f"Bearer {key}"},
            http_client=http,
        )

    @property
    def client(self) -> AsyncStorageClient:
        """For set-up only: buckets."""
        return self._client

    async def put(self, bucket: str, key: str, data: bytes | FileIO, content_type: str) -> None:
        files = self._client.from_(bucket)
        # The client wants "true", not True, and would guess text/plain.
        options: FileOptions = {
            "content-type": content_type,
            "cache-control": "3600",
            "upsert": "true",
        }

        async def upload() -> UploadResponse:
            if not isinstance(data, bytes):
                data.seek(0)
            return await files.upload(key, data, options)

        await _call("put", upload)

    async def get(self, bucket: str, key: str) -> bytes:
        files = self._client.from_(bucket)
        return await _call("get", lambda: files.download(key))

    async def size(self, bucket: str, key: str) -> int:
        files = self._client.from_(bucket)
        info = await _call("size", lambda: files.info(key))
        size = info.get("size")
        if not isinstance(size, int):
            raise StorageUnavailableError
        return size

    async def delete(self, bucket: str, keys: Sequence[str]) -> None:
        files = self._client.from_(bucket)
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            chunk = list(keys[start : start + _KEYS_AT_ONCE])
            await _call("delete", lambda chunk=chunk: files.remove(chunk))  # type: ignore[misc]  # mypy infers no type for a lambda with a default

    async def sign(
        self, bucket: str, key: str, seconds: int, *, download_name: str | None = None
    ) -> str:
        files = self._client.from_(bucket)
        options: URLOptions = {"download": download_name} if download_name else {}
        answer = await _call("sign", lambda: files.create_signed_url(key, seconds, options))
        if answer["signedURL"] is None:
            raise NotFoundError(kind="object")
        return answer["signedURL"]

    async def sign_many(self, bucket: str, keys: Sequence[str], seconds: int) -> list[str | None]:
        if not keys:
            return []
        files = self._client.from_(bucket)
        answer = await _call("sign_many", lambda: files.create_signed_urls(list(keys), seconds))
        signed = {item["path"]: item["signedURL"] for item in answer}
        return [signed.get(key) for key in keys]

    async def sign_upload(self, bucket: str, key: str) -> SignedUpload:
        files = self._client.from_(bucket)
        options = CreateSignedUploadUrlOptions(upsert="false")
        answer = await _call("sign_upload", lambda: files.create_signed_upload_url(key, options))
        return SignedUpload(
            url=answer["signed_url"],
            token=answer["token"],
            expires_at=_expiry_of(answer["token"]),
        )


def _expiry_of(token: str) -> dt.datetime:
    """The token is the service's own; we only read when it ends."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False, "verify_exp": False})
        return dt.datetime.fromtimestamp(float(claims["exp"]), dt.UTC)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=SIGNED_UPLOAD_SECONDS)


async def _call(operation: str, call: Callable[[], Awaitable[Result]]) -> Result:
    """`call`, once more after a failure that may have been one connection's: all may repeat.

    No text of the service leaves this function: its texts name keys, hosts and tokens.
    """
    try:
        async with asyncio.timeout(_SECONDS_MAX):
            return await _ONCE_MORE(_may_be_one_connections, call)
    except StorageApiError as error:
        raise _translate(operation, error) from None
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("storage.unreachable", operation=operation, error=type(error).__name__)
        raise StorageUnavailableError from error
    except (StorageException, ValueError, KeyError, TypeError) as error:
        # The client could not read a 2xx answer: a proxy's page, or half an answer.
        log.warning("storage.unreadable_answer", operation=operation, error=type(error).__name__)
        raise StorageUnavailableError from None


def _may_be_one_connections(error: Exception) -> bool:
    """Not a time-out, after which the caller has waited long enough, and not a refusal."""
    if isinstance(error, StorageApiError):
        status = _status(error)
        return status == httpx.codes.TOO_MANY_REQUESTS or not 400 <= status < 500
    if isinstance(error, httpx.HTTPError):
        return not isinstance(error, httpx.TimeoutException)
    return isinstance(error, (StorageException, ValueError, KeyError, TypeError))


def _status(error: StorageApiError) -> int:
    return int(error.status) if str(error.status).isdigit() else 0


def _translate(operation: str, error: StorageApiError) -> Exception:
    status = _status(error)
    match status:
        case 404 if error.code == _OBJECT_MISSING:
            return NotFoundError(kind="object")
        case 409:
            return ConflictError(reason=StorageReason.OBJECT_EXISTS)
        case 413:
            return PayloadTooLargeError(reason=PhotoReason.NOT_KEPT)
        case 400 | 415 | 422:
            log.error("storage.refused", operation=operation, status=status, code=error.code)
            return PermanentError(f"storage refused {operation} with {status}")
        case 401 | 403 | 404:
            # A missing bucket and a wrong key look alike; an operator has to correct both.
            log.error("storage.misconfigured", operation=operation, status=status, code=error.code)
            return StorageUnavailableError()
        case _:
            log.warning("storage.failed", operation=operation, status=status)
            return StorageUnavailableError()
