"""How long a request waits, and what its answer says of that."""

import asyncio
import time

import pytest

from api.http.wait import Wait, parse_prefer_wait
from api.identity import RequestContext


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("wait=10", 10),
        ("respond-async, wait=5", 5),
        ("Wait = 7; x", 7),
        ('wait="3"', 3),
        ("wait=9999", 25),
        ("wait=-1", 0),
        ("await=5", 0),
        ("wait=abc", 0),
    ],
)
def test_prefer_wait(header: str | None, seconds: int) -> None:
    assert parse_prefer_wait(header) == seconds


class _Thing:
    """Settled when it was read for the `settled_at`th time."""

    def __init__(self, settled_at: int) -> None:
        self.reads = 0
        self._settled_at = settled_at

    async def read(self) -> bool:
        self.reads += 1
        return self.reads >= self._settled_at


def _wait(seconds: int) -> Wait:
    return Wait(RequestContext(request_id="r", client_ip="ip"), seconds)


async def test_without_a_wait_it_is_read_once() -> None:
    thing = _Thing(2)
    assert await _wait(0).until(bool, thing.read) is False
    assert thing.reads == 1


async def test_it_is_read_until_it_is_settled() -> None:
    thing = _Thing(3)
    started = time.monotonic()
    assert await _wait(5).until(bool, thing.read) is True
    assert thing.reads == 3
    assert time.monotonic() - started < 2


async def test_the_time_is_kept_also_by_a_pause_of_ones_own() -> None:
    thing = _Thing(10**9)
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.4))

    started = time.monotonic()
    assert await _wait(1).until(bool, thing.read, pause=pause) is False
    assert 0.9 < time.monotonic() - started < 3
    assert all(0 < seconds <= 1 for seconds in pauses)
    assert thing.reads == len(pauses) + 1


@pytest.mark.parametrize(
    ("seconds", "is_settled", "headers"),
    [
        (0, True, []),
        (0, False, [(b"retry-after", b"2")]),
        (7, True, [(b"preference-applied", b"wait=7")]),
        (7, False, [(b"preference-applied", b"wait=7"), (b"retry-after", b"2")]),
    ],
)
def test_the_answer_says_what_was_kept(
    *, seconds: int, is_settled: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    context = RequestContext(request_id="r", client_ip="ip")
    Wait(context, seconds).add_headers(is_settled=is_settled)
    assert context.headers == headers
