"""Unread bodies are read before the answer goes out, up to a limit."""

import asyncio
import time
from typing import Any, cast

import pytest
from litestar.types import Message, Receive, Scope, Send

from api.middleware import bodies
from api.middleware.bodies import Bodies, Body, BodyTooSlowError, Pace

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

    await Bodies(_refuse)(
        cast("Any", {"type": "http", "method": method, "state": {}}), cast("Any", receive), send
    )
    return before, read - before


async def test_the_whole_body_is_read_before_the_answer() -> None:
    assert await _run([MEGABYTE] * 5) == (5, 0)
    assert await _run([b""]) == (1, 0)


async def test_reading_has_an_end() -> None:
    assert await _run(None) == (bodies.DRAINED_BYTES_MAX // len(MEGABYTE), 0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_methods_without_a_body_are_not_waited_for(method: str) -> None:
    assert await _run([MEGABYTE], method) == (0, 0)


# --- pace ----------------------------------------------------------------------------------------

QUICK = Pace(seconds=0.6, pause_seconds=0.2, pause_bytes=100)


async def _read(chunks: int, *, bytes_each: int, pause_seconds: float, pace: Pace = QUICK) -> int:
    """Reads such a body to its end. How many bytes there were."""
    sent = 0

    async def receive() -> Any:
        nonlocal sent
        await asyncio.sleep(pause_seconds)
        sent += 1
        return {"type": "http.request", "body": bytes(bytes_each), "more_body": sent < chunks}

    body = Body(receive, pace)
    while not body.is_over:
        await body.receive()
    return body.size_bytes


async def test_a_body_that_drips_is_given_up() -> None:
    """It was waited for as long as its client liked."""
    with pytest.raises(BodyTooSlowError):
        await _read(100, bytes_each=1, pause_seconds=0.05)
    with pytest.raises(BodyTooSlowError):
        await _read(2, bytes_each=1000, pause_seconds=0.4)


async def test_a_body_has_an_end_in_time_however_steadily_it_comes() -> None:
    with pytest.raises(BodyTooSlowError):
        await _read(100, bytes_each=100, pause_seconds=0.05)


async def test_a_large_body_at_a_fair_pace_may_take_longer() -> None:
    pace = Pace(seconds=0.3, bytes_per_second=1000, pause_seconds=0.2, pause_bytes=100)
    assert await _read(15, bytes_each=100, pause_seconds=0.05, pace=pace) == 1500


@pytest.mark.parametrize(
    ("bytes_per_second", "megabytes"), [(60_000, 20), (62_500, 25), (30_000, 3)]
)
def test_a_phone_on_a_slow_line_sends_its_photo(bytes_per_second: int, megabytes: int) -> None:
    """Was given up after 113 s with 7 of 20 MB."""
    size_bytes = megabytes * 1_000_000
    allowed = bodies.PHOTO.seconds + size_bytes / bodies.PHOTO.bytes_per_second
    assert size_bytes / bytes_per_second < allowed


async def test_only_waiting_for_the_client_counts() -> None:
    """A server that is busy between two chunks gives up nobody."""
    chunks = [b"a" * 100, b"b"]

    async def receive() -> Any:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    body = Body(receive, QUICK)
    await body.receive()
    await asyncio.sleep(0.7)
    await body.receive()
    assert (body.is_over, body.size_bytes) == (True, 101)


async def test_who_is_refused_and_drips_gets_the_answer_soon() -> None:
    answered: list[float] = []
    started = time.monotonic()

    async def receive() -> Any:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(_: Message) -> None:
        answered.append(time.monotonic() - started)

    scope = {"type": "http", "method": "POST", "state": {}}
    drained = Bodies(_refuse, unwanted=QUICK)
    await drained(cast("Any", scope), cast("Any", receive), send)
    assert 0.2 <= answered[0] < 5


async def test_the_end_of_the_client_is_waited_for_without_hurry() -> None:
    async def receive() -> Any:
        if body.is_over:
            await asyncio.sleep(0.5)
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"all", "more_body": False}

    body = Body(receive, QUICK)
    await body.receive()
    assert (await body.receive())["type"] == "http.disconnect"
