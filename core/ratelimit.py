"""Rate limits: sliding windows in Redis, all limits of a request in one round trip.

Time is cut into fixed windows; what was counted in the one before weighs as much as it still
overlaps the last `window_seconds`. A refused request counts nowhere. While Redis does not answer,
the same limits hold per process, and Redis is tried again only after some seconds, so that it
slows no request.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import structlog
from limits import parse_many
from limits.storage import MemoryStorage
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger()

BREAKER_SECONDS = 5.0
# Some 15 MB. A subject has two while its window slides.
LOCAL_COUNTS_MAX = 50_000


class Limit(msgspec.Struct, frozen=True):
    """`amount` requests in any `window_seconds`; `name` is shown in the headers."""

    name: str
    amount: int
    window_seconds: int


class Decision(msgspec.Struct, frozen=True):
    """The tightest of the limits that were checked: the one to show, or the one that refused."""

    allowed: bool
    limit: Limit
    remaining: int
    reset_seconds: int
    retry_after_seconds: int


def parse_limit(name: str, text: str) -> Limit:
    """`600/minute`, `30/5 minutes`.  Raises: ValueError."""
    try:
        (item,) = parse_many(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is not a rate limit such as 600/minute") from error
    if item.amount < 1:
        raise ValueError(f"{name}: {text!r} is not a rate limit that lets anything pass")
    return Limit(name, item.amount, item.get_expiry())


# Returns per limit: remaining, milliseconds to the window's end, milliseconds until it would pass
# (0 when it passes). The fields of a key: w number of the window, c its count, p the one before.
_SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local states, answer, refused = {}, {}, false
for i = 1, #KEYS do
  local amount, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local number = math.floor(now / window)
  local into = now - number * window
  local kept = redis.call('HMGET', KEYS[i], 'w', 'c', 'p')
  local w, c, p = tonumber(kept[1]), tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
  if not w or w < number - 1 then c, p = 0, 0
  elseif w == number - 1 then c, p = 0, c end
  local used = math.floor(p * (1 - into / window)) + c
  local wait = 0
  if used + 1 > amount then
    refused = true
    if c + 1 <= amount then wait = window * (1 - (amount - c) / p) - into
    else wait = window - into + window * (1 - amount / c) end
    wait = math.max(wait, 0) + 0.001
  end
  states[i] = {number, c, p, window, amount, used}
  answer[3 * i - 1] = math.ceil((window - into) * 1000)
  answer[3 * i] = math.ceil(wait * 1000)
end
for i = 1, #KEYS do
  local s = states[i]
  local used = s[6]
  if not refused then
    redis.call('HSET', KEYS[i], 'w', s[1], 'c', s[2] + 1, 'p', s[3])
    redis.call('EXPIRE', KEYS[i], s[4] * 2)
    used = used + 1
  end
  answer[3 * i - 2] = math.max(0, s[5] - used)
end
return answer
"""


class RateLimiter:
    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str,
        clock: Callable[[], float] = time.monotonic,
        local_counts_max: int = LOCAL_COUNTS_MAX,
    ) -> None:
        self._script = redis.register_script(_SCRIPT)
        self._prefix = prefix
        self._clock = clock
        self._local = _LocalWindows(local_counts_max)
        self._redis_down_until = 0.0

    async def hit(self, checks: Sequence[tuple[Limit, str]]) -> Decision:
        """Count one request against each (limit, subject); if one refuses, against none."""
        assert checks
        keys = [f"{self._prefix}:rl:{limit.name}:{subject}" for limit, subject in checks]
        limits = [limit for limit, _ in checks]
        if self._clock() >= self._redis_down_until:
            arguments = [part for limit in limits for part in (limit.amount, limit.window_seconds)]
            try:
                answer = cast("list[int]", await self._script(keys=keys, args=arguments))
            except (RedisError, OSError, TimeoutError) as error:
                self._redis_down_until = self._clock() + BREAKER_SECONDS
                log.warning("ratelimit.redis_unavailable", error=type(error).__name__)
            else:
                return _decide(limits, answer)
        return _decide(limits, self._local.hit(keys, limits))

    @property
    def is_local(self) -> bool:
        """True while the limits hold per process only."""
        return self._clock() < self._redis_down_until


class _Row(msgspec.Struct, frozen=True):
    limit: Limit
    remaining: int
    reset_ms: int
    wait_ms: int


def _decide(limits: Sequence[Limit], answer: Sequence[int]) -> Decision:
    rows = [_Row(limit, *answer[3 * index : 3 * index + 3]) for index, limit in enumerate(limits)]
    refusing = [row for row in rows if row.wait_ms > 0]
    if refusing:
        shown = max(refusing, key=lambda row: row.wait_ms)
    else:
        shown = min(rows, key=lambda row: row.remaining / row.limit.amount)
    return Decision(
        allowed=not refusing,
        limit=shown.limit,
        remaining=shown.remaining,
        reset_seconds=math.ceil(shown.reset_ms / 1000),
        retry_after_seconds=math.ceil(shown.wait_ms / 1000),
    )


class _LocalWindows:
    """The script above for one process, on the counts of `limits`.

    Not its strategies: they check one limit at a time, and their time of reset is not yet the time
    at which the next request passes.
    """

    def __init__(self, counts_max: int) -> None:
        self._counts = _BoundedCounts(counts_max)

    def hit(self, keys: Sequence[str], limits: Sequence[Limit]) -> list[int]:
        answer: list[int] = []
        for key, limit in zip(keys, limits, strict=True):
            window = limit.window_seconds
            before, _, count, left = self._counts.get_sliding_window(key, window)
            into = 2 * window - left
            used = math.floor(before * (1 - into / window)) + count
            wait = _wait_seconds(limit, count, before, into) if used + 1 > limit.amount else 0.0
            answer += [
                max(0, limit.amount - used),
                math.ceil((window - into) * 1000),
                math.ceil(wait * 1000),
            ]
        if not any(answer[2::3]):
            for index, (key, limit) in enumerate(zip(keys, limits, strict=True)):
                self._counts.acquire_sliding_window_entry(key, limit.amount, limit.window_seconds)
                answer[3 * index] -= 1
        return answer


class _BoundedCounts(MemoryStorage):
    """At most so many counts: a new one takes the place of the one that was last added to longest
    ago, so that a flood of addresses neither fills the memory nor resets all counts at once."""

    def __init__(self, counts_max: int) -> None:
        super().__init__()
        self._counts_max = counts_max

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Without the inherited timer, a new thread every 10 ms: what is over goes when it is read
        or when its place is needed."""
        counted = self.get(key)
        while len(self.expirations) >= self._counts_max and key not in self.expirations:
            self.clear(next(iter(self.expirations)))
        self.storage[key] = counted + amount
        self.expirations[key] = self.expirations.pop(key, time.time() + expiry)
        return counted + amount


def _wait_seconds(limit: Limit, count: int, before: int, into: float) -> float:
    window = limit.window_seconds
    if count + 1 <= limit.amount:
        wait = window * (1 - (limit.amount - count) / before) - into
    else:
        wait = window - into + window * (1 - limit.amount / count)
    return max(wait, 0.0) + 0.001
