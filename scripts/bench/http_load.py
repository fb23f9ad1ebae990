"""A closed-loop HTTP load: each connection sends its next request when the last was answered.

Hand-written on asyncio streams because the two cores serve everything: a general client would
cost more than the server that it measures.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

RequestOf = Callable[[int], bytes]


class Load(msgspec.Struct, frozen=True):
    """What a load found out. `latencies_ms` are sorted."""

    seconds: float
    statuses: dict[int, int]
    latencies_ms: list[float]

    def rate(self, status: int) -> float:
        return self.statuses.get(status, 0) / self.seconds

    def percentile(self, share: float) -> float:
        return self.latencies_ms[
            min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))
        ]


def request(method: str, path: str, *, token: str, body: bytes = b"") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def closed_loop(
    host: str,
    port: int,
    requests: Sequence[RequestOf],
    *,
    seconds: float = float("inf"),
    count: int | None = None,
) -> Load:
    """One connection for each of `requests`, which are asked for the n-th request of theirs.

    Ends after `seconds`, or when `count` requests have been answered.
    """
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    started = time.perf_counter()
    until = started + seconds
    sent_count = 0

    async def connection(make: RequestOf) -> None:
        nonlocal sent_count
        reader, writer = await asyncio.open_connection(host, port)
        number = 0
        while (sent := time.perf_counter()) < until and (count is None or sent_count < count):
            sent_count += 1
            writer.write(make(number))
            statuses[await _read_answer(reader)] += 1
            latencies.append((time.perf_counter() - sent) * 1000)
            number += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection(make) for make in requests))
    return Load(time.perf_counter() - started, dict(statuses), sorted(latencies))


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at >= 0:
        length = int(lower[at + 15 : lower.index(b"\r\n", at)])
        if length:
            await reader.readexactly(length)
    return status
