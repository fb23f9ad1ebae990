"""Unread bodies are read before the answer goes out, up to a limit."""

from typing import Any, cast

import pytest
from litestar.types import Message, Receive, Scope, Send

from api.middleware import drain
from api.middleware.drain import Drain

MEGABYTE = bytes(1_000_000)


async def _refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers without a look at the body, as for a token that has ended."""
    await send(cast("Any", {"type": "http.response.start", "status": 401, "headers": []}))
    await send(cast("Any", {"type": "http.response.body", "body": b"no", "more_body": False}))


async def _run(chunks: list[bytes] | None, method: str = "POST") -> tuple[int, int]:
    """How many chunks were read before the answer started, and how many afterwards."""
    read, before = 0, -1

    async def receive() -> Any:
        nonlocal read
        if chunks is not None and read >= len(chunks):
            return {"type": "http.disconnect"}
        chunk = MEGABYTE if chunks is None else chunks[read]
        read += 1
        more = chunks is None or read < len(chunks)
        return {"type": "http.request", "body": chunk, "more_body": more}

    async def send(message: Message) -> None:
        nonlocal before
        if message["type"] == "http.response.start":
            before = read

    await Drain(_refuse)(
        cast("Any", {"type": "http", "method": method}), cast("Any", receive), send
    )
    return before, read - before


async def test_the_whole_body_is_read_before_the_answer() -> None:
    assert await _run([MEGABYTE] * 5) == (5, 0)
    assert await _run([b""]) == (1, 0)


async def test_reading_has_an_end() -> None:
    assert await _run(None) == (drain.BYTES_MAX // len(MEGABYTE), 0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_methods_without_a_body_are_not_waited_for(method: str) -> None:
    assert await _run([MEGABYTE], method) == (0, 0)
