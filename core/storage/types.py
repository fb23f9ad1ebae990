"""What the product needs of an object store: private buckets, deterministic keys, signed URLs."""

import datetime as dt
from collections.abc import Sequence
from io import FileIO
from typing import Protocol

import msgspec


class SignedUpload(msgspec.Struct, frozen=True):
    """One key may be written once, by PUT, without any other credential, until it expires."""

    url: str
    token: str
    expires_at: dt.datetime


class Storage(Protocol):
    """All operations may be repeated. Units: bytes, seconds.

    Raises, all of them: StorageUnavailableError; PermanentError where the store refuses what
    only a programmer's error requests.
    """

    async def put(self, bucket: str, key: str, data: bytes | FileIO, content_type: str) -> None:
        """Store or replace; of a file all of it.

        Raises: PayloadTooLargeError over the bucket's limit.
        """

    async def get(self, bucket: str, key: str) -> bytes:
        """Raises: NotFoundError."""

    async def size(self, bucket: str, key: str) -> int:
        """Raises: NotFoundError."""

    async def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """What is missing counts as deleted."""

    async def sign(
        self, bucket: str, key: str, seconds: int, *, download_name: str | None = None
    ) -> str:
        """An absolute URL that needs no credential.  Raises: NotFoundError."""

    async def sign_many(self, bucket: str, keys: Sequence[str], seconds: int) -> list[str | None]:
        """As `sign`, in one request and in the order of `keys`; None for what is missing."""

    async def sign_upload(self, bucket: str, key: str) -> SignedUpload:
        """Raises: ConflictError when the key exists already."""
