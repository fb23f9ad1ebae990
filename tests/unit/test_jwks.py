"""When a key set is asked for, and what is none. Its owners' tests say what they do with it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from core.errors import TemporarilyUnavailableError
from core.jwks import KeySet


class _Publisher:
    """Counts how often it is asked; answers with what `answer` is."""

    def __init__(self) -> None:
        self.answer = httpx.Response(200, json={"keys": [{"kid": "a"}, "no entry", 7]})
        self.asked = 0
        self.now = 1_000.0
        self.http = httpx.AsyncClient(transport=httpx.MockTransport(self._say))
        self.keys = KeySet(
            self.http,
            "https://publisher.example.com/jwks",
            what="publisher",
            read=_read,
            fresh_seconds=60,
            usable_seconds=600,
            retry_seconds=1,
            refetch_seconds=30,
            now=lambda: self.now,
        )

    async def _say(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        await asyncio.sleep(0.01)
        return self.answer


def _read(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [entry["kid"] for entry in entries]


@pytest.fixture
async def publisher() -> AsyncIterator[_Publisher]:
    made = _Publisher()
    yield made
    await made.keys.close()
    await made.http.aclose()


async def test_whoever_waits_shares_one_fetch(publisher: _Publisher) -> None:
    assert await asyncio.gather(*(publisher.keys.get() for _ in range(20))) == [["a"]] * 20
    assert publisher.asked == 1
    seen = await publisher.keys.get()
    publisher.now += 30
    publisher.answer = httpx.Response(200, json={"keys": [{"kid": "b"}]})
    newer = await asyncio.gather(*(publisher.keys.get_newer(seen) for _ in range(20)))
    assert newer == [["b"]] * 20
    assert publisher.asked == 2
    assert await publisher.keys.get_newer(newer[0]) is newer[0]
    assert publisher.asked == 2


async def test_an_old_set_serves_while_a_new_one_is_fetched(publisher: _Publisher) -> None:
    await publisher.keys.get()
    publisher.now += 61
    publisher.answer = httpx.Response(200, json={"keys": [{"kid": "b"}]})
    assert await publisher.keys.get() == ["a"]
    await asyncio.sleep(0.05)
    assert publisher.keys.find() == ["b"]
    assert publisher.asked == 2


async def test_a_set_that_is_too_old_serves_nobody(publisher: _Publisher) -> None:
    await publisher.keys.get()
    publisher.answer = httpx.Response(503)
    publisher.now += 600
    assert publisher.keys.find() is None
    with pytest.raises(TemporarilyUnavailableError) as caught:
        await publisher.keys.get()
    assert caught.value.fields == {"what": "publisher"}
    with pytest.raises(TemporarilyUnavailableError):
        await publisher.keys.get()
    assert publisher.asked == 2, "it had only just been asked"
    publisher.answer = httpx.Response(200, json={"keys": []})
    publisher.now += 1
    assert await publisher.keys.get() == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, json=[{"kid": "a"}]),
        httpx.Response(200, json={"keys": {"kid": "a"}}),
        httpx.Response(302, headers={"location": "https://elsewhere.example.com"}),
        httpx.Response(404, json={"keys": [{"kid": "a"}]}),
    ],
)
async def test_what_is_no_key_set_replaces_none(
    publisher: _Publisher, answer: httpx.Response
) -> None:
    seen = await publisher.keys.get()
    publisher.now += 30
    publisher.answer = answer
    assert await publisher.keys.get_newer(seen) is seen
    assert publisher.asked == 2
