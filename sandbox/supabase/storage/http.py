"""Requests and replies of the Storage stand-in.

Object keys may hold `//`, trailing slashes and encoded bytes that a web framework normalises away,
so this part reads the raw path itself.
"""

from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from litestar.types import HTTPScope, Receive, Send

from sandbox.supabase.storage.errors import StorageError, invalid_request, too_large

JSON_TYPE = "application/json; charset=utf-8"
MOUNT = "/storage/v1"


class StorageRequest:
    """One request; `path` is decoded and relative to the mount, `raw_url` is neither decoded."""

    def __init__(self, scope: HTTPScope, receive: Receive) -> None:
        raw = scope.get("raw_path") or scope["path"].encode()
        self.raw_path = raw.decode("latin-1").split("?")[0].removeprefix(MOUNT)
        self.path = unquote(self.raw_path, errors="replace")
        query = scope["query_string"].decode("latin-1")
        self.raw_url = self.raw_path + (f"?{query}" if query else "")
        self.query = {
            name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()
        }
        self.method = scope["method"]
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        self._receive = receive

    async def body(self, *, bytes_max: int) -> bytes:
        """Raises: StorageError when there is more."""
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > bytes_max:
            raise too_large()
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise StorageError(499, "Aborted", "Request aborted", "Aborted")
            chunks.append(message["body"])
            size += len(chunks[-1])
            more = message["more_body"]
            if size > bytes_max:
                raise too_large()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def json(self) -> dict[str, Any]:
        """The object of a JSON body, `{}` for none. Raises: StorageError."""
        raw = await self.body(bytes_max=1024 * 1024)
        if not raw:
            return {}
        try:
            decoded = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                400,
                "FastifyError",
                "Body is not valid JSON but content-type is set to 'application/json'",
                "InvalidRequest",
            ) from error
        if not isinstance(decoded, dict):
            raise invalid_request("body must be object")
        return decoded


class Reply(msgspec.Struct):
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}

    async def send(self, send: Send, *, without_body: bool = False) -> None:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        if "content-length" not in self.headers:
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if without_body else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


def json_reply(value: Any, *, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(value), status, {"content-type": JSON_TYPE})


def error_reply(error: StorageError) -> Reply:
    return Reply(error.body, error.http_status, {"content-type": JSON_TYPE})


def require_text(body: dict[str, Any], name: str) -> str:
    """Raises: StorageError."""
    if name not in body:
        from_body = f"body must have required property '{name}'"
        raise invalid_request(from_body)
    if not isinstance(body[name], str):
        raise invalid_request(f"body/{name} must be string")
    value: str = body[name]
    return value


def integer(body: dict[str, Any], name: str, *, default: int | None = None, least: int = 1) -> int:
    """Numbers come as strings too (the official client's `expiresIn`). Raises: StorageError."""
    value = body.get(name, default)
    if value is None:
        raise invalid_request(f"body must have required property '{name}'")
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise invalid_request(f"body/{name} must be integer") from error
    if number < least:
        raise invalid_request(f"body/{name} must be >= {least}")
    return number
