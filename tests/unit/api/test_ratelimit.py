"""The sliding window, as one process counts it."""

import threading

import pytest
from redis.asyncio import Redis

from core.ratelimit import Decision, Limit, RateLimiter, parse_limit

COUNTS_MAX = 50


class _Clock:
    def __init__(self) -> None:
        self.now = 1_200_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Of the process, as `limits` reads it."""
    clock = _Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture
def limiter(clock: _Clock) -> RateLimiter:
    away: Redis = Redis.from_url("redis://127.0.0.1:9/0", socket_connect_timeout=0.2)
    return RateLimiter(away, prefix="unit", clock=clock, local_counts_max=COUNTS_MAX)


async def _hits(limiter: RateLimiter, limit: Limit, times: int) -> list[Decision]:
    return [await limiter.hit([(limit, "someone")]) for _ in range(times)]


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [("600/minute", 600, 60), ("30/5 minutes", 30, 300), ("1 per day", 1, 86400)],
)
def test_limits_are_written_as_people_say_them(text: str, amount: int, seconds: int) -> None:
    assert parse_limit("x", text) == Limit("x", amount, seconds)


@pytest.mark.parametrize(
    "text", ["", "0/minute", "many/minute", "5/fortnight", "-1/second", "5/second;9/hour"]
)
def test_other_limits_do_not_start(text: str) -> None:
    with pytest.raises(ValueError, match="not a rate limit"):
        parse_limit("x", text)


async def test_the_window_slides(limiter: RateLimiter, clock: _Clock) -> None:
    limit = Limit("x", 10, 60)
    first = await _hits(limiter, limit, 11)
    assert [decision.allowed for decision in first] == [True] * 10 + [False]
    assert [decision.remaining for decision in first[:3]] == [9, 8, 7]
    assert first[-1].remaining == 0
    clock.now += 90  # half of the window before still counts
    later = await _hits(limiter, limit, 6)
    assert [decision.allowed for decision in later] == [True] * 5 + [False]
    clock.now += 120
    assert all(decision.allowed for decision in await _hits(limiter, limit, 10))


async def test_waiting_as_told_is_enough_and_less_is_not(
    limiter: RateLimiter, clock: _Clock
) -> None:
    limit = Limit("x", 3, 60)
    clock.now += 17
    refused = (await _hits(limiter, limit, 4))[-1]
    assert not refused.allowed
    clock.now += refused.retry_after_seconds - 1.5
    assert not (await limiter.hit([(limit, "someone")])).allowed
    clock.now += 1.5
    assert (await limiter.hit([(limit, "someone")])).allowed


async def test_a_refused_request_counts_nowhere(limiter: RateLimiter) -> None:
    tight, wide = Limit("tight", 1, 60), Limit("wide", 5, 60)
    checks = [(tight, "a"), (wide, "a")]
    assert (await limiter.hit(checks)).allowed
    for _ in range(10):
        refused = await limiter.hit(checks)
        assert (refused.allowed, refused.limit) == (False, tight)
    alone = await limiter.hit([(wide, "a")])
    assert (alone.allowed, alone.remaining) == (True, 3)


async def test_redis_is_left_alone_for_a_while(limiter: RateLimiter, clock: _Clock) -> None:
    limit = Limit("x", 100, 60)
    assert not limiter.is_local
    await limiter.hit([(limit, "a")])
    assert limiter.is_local
    clock.now += 5.1
    assert not limiter.is_local


async def test_a_flood_of_addresses_sets_nobody_free(limiter: RateLimiter) -> None:
    """Only what was counted longest ago makes room: no memory without end, no clean slate."""
    limit = Limit("x", 3, 3600)
    for subject in ("guesser", "guesser", "guesser", "gone", "gone", "guest"):
        await limiter.hit([(limit, subject)])
    threads = threading.active_count()
    for number in range(COUNTS_MAX - 3):
        await limiter.hit([(limit, f"passer-by {number}")])
    assert not (await limiter.hit([(limit, "guesser")])).allowed
    assert (await limiter.hit([(limit, "guest")])).remaining == 1, "counted anew, so not the oldest"
    for number in range(2):
        await limiter.hit([(limit, f"one more {number}")])
    assert (await limiter.hit([(limit, "guest")])).remaining == 0, "the others are still known"
    assert (await limiter.hit([(limit, "gone")])).remaining == 2, "the oldest went"
    assert threading.active_count() <= threads


async def test_what_is_looked_at_may_refuse_and_counts_nothing(limiter: RateLimiter) -> None:
    counted, looked_at = Limit("counted", 9, 60), Limit("looked-at", 2, 60)
    for _ in range(4):
        assert (await limiter.hit([(counted, "a")], looks=[(looked_at, "a")])).allowed
    for _ in range(2):
        await limiter.hit([(looked_at, "a")])
    refused = await limiter.hit([(counted, "a")], looks=[(looked_at, "a")])
    assert (refused.allowed, refused.limit) == (False, looked_at)
    assert (await limiter.hit([(counted, "a")])).remaining == 4


async def test_what_is_settled_is_forgotten(limiter: RateLimiter) -> None:
    limit = Limit("x", 2, 60)
    await _hits(limiter, limit, 2)
    await limiter.settle(limit, "someone", remember="someone", seconds=60)
    assert (await limiter.hit([(limit, "someone")])).allowed
    assert not await limiter.remembers("someone"), "nobody is known while Redis is away"
