"""Uploaded and produced files, held in memory and served under `/files/`."""

import secrets
import time
from collections.abc import Mapping

import msgspec

UPLOAD_TOKEN_SECONDS = 3600.0
PATH_PREFIX = "/files/"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """`content` is shared between files that are equal; `filler_bytes` asks for zeros instead.

    `request_id` and `account`: whose output it is.
    """

    content: bytes
    content_type: str
    expires_at: float | None = None
    filler_bytes: int = 0
    request_id: str | None = None
    account: str | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.content) + self.filler_bytes


class FileStore:
    def __init__(self) -> None:
        self._files: dict[str, StoredFile] = {}
        self._tokens: dict[str, float] = {}
        self._pending: dict[str, tuple[str, str, float | None]] = {}

    def clear(self) -> None:
        self._files.clear()
        self._tokens.clear()
        self._pending.clear()

    def put(self, file: StoredFile, name: str) -> str:
        """The path of the new file."""
        path = f"{PATH_PREFIX}sandbox/{secrets.token_urlsafe(12)}_{safe_name(name)}"
        self._files[path] = file
        return path

    def find(self, path: str) -> StoredFile | None:
        file = self._files.get(path)
        if file is not None and file.expires_at is not None and file.expires_at <= time.time():
            del self._files[path]
            return None
        return file

    def issue_token(self) -> tuple[str, float]:
        token = secrets.token_urlsafe(24)
        expires_at = time.time() + UPLOAD_TOKEN_SECONDS
        self._tokens[token] = expires_at
        return token, expires_at

    def is_token(self, token: str) -> bool:
        return self._tokens.get(token, 0.0) > time.time()

    def begin_upload(
        self, *, name: str, content_type: str, expires_at: float | None
    ) -> tuple[str, str]:
        """(ticket of the PUT, path of the file to come)."""
        ticket = secrets.token_urlsafe(18)
        path = f"{PATH_PREFIX}sandbox/{secrets.token_urlsafe(12)}_{safe_name(name)}"
        self._pending[ticket] = (path, content_type, expires_at)
        return ticket, path

    def finish_upload(self, ticket: str, content: bytes) -> str | None:
        pending = self._pending.pop(ticket, None)
        if pending is None:
            return None
        path, content_type, expires_at = pending
        self._files[path] = StoredFile(
            content=content, content_type=content_type, expires_at=expires_at
        )
        return path


def safe_name(name: str) -> str:
    kept = "".join(char for char in name if char.isascii() and (char.isalnum() or char in "._-"))
    return kept[-80:] or "file"


def expiry_of(headers: Mapping[str, str], header: str) -> float | None:
    """When a file with this lifecycle header ends; None: when the sandbox stops."""
    raw = headers.get(header)
    if raw is None:
        return None
    try:
        preference = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    seconds = (
        preference.get("expiration_duration_seconds") if isinstance(preference, dict) else None
    )
    return time.time() + float(seconds) if isinstance(seconds, int | float) else None
