"""Rate limits: sliding windows in Redis, all limits of a request in one round trip.

Time is cut into fixed windows; what was counted in the one before weighs as much as it still
overlaps the last `window_seconds`. A refused request counts nowhere; a limit that is only looked at
may refuse, and counts nothing either. While Redis does not answer, the same limits hold per
process, and Redis is tried again only after some seconds, so that it slows no request.
"""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

import msgspec
import structlog
from limits import parse_many
from limits.storage import MemoryStorage
from redis.asyncio import Redis
from redis.exceptions import RedisError

Answer = TypeVar("Answer")

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


# ARGV per limit: amount, seconds, and whether it is counted (1) or only looked at (0). Returns per
# limit: remaining, milliseconds to the window's end, milliseconds until it would pass (0 when it
# passes). The fields of a key: w number of the window, c its count, p the one before.
_SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local states, answer, refused = {}, {}, false
for i = 1, #KEYS do
  local amount, window = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
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
  if not refused and ARGV[3 * i] == '1' then
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
        self._redis = redis
        self._script = redis.register_script(_SCRIPT)
        self._prefix = prefix
        self._clock = clock
        self._local = _LocalWindows(local_counts_max)
        self._redis_down_until = 0.0

    async def hit(
        self, checks: Sequence[tuple[Limit, str]], *, looks: Sequence[tuple[Limit, str]] = ()
    ) -> Decision:
        """Count one request against each (limit, subject) of `checks`; if one of these or of
        `looks` refuses, against none."""
        assert checks
        asked = [*checks, *looks]
        keys = [self._key_of(limit, subject) for limit, subject in asked]
        limits = [limit for limit, _ in asked]
        counts = [index < len(checks) for index in range(len(asked))]

        async def ask() -> list[int]:
            arguments = [
                part
                for limit, is_counted in zip(limits, counts, strict=True)
                for part in (limit.amount, limit.window_seconds, int(is_counted))
            ]
            return cast("list[int]", await self._script(keys=keys, args=arguments))

        answer = await self._ask_redis(ask)
        return _decide(limits, self._local.hit(keys, limits, counts) if answer is None else answer)

    async def give_back(self, checks: Sequence[tuple[Limit, str]]) -> None:
        """What was counted for something that then did not take place. Lost while Redis is away."""

        async def tell() -> bool:
            pipeline = self._redis.pipeline(transaction=False)
            for limit, subject in checks:
                pipeline.hincrby(self._key_of(limit, subject), "c", -1)
            await pipeline.execute()
            return True

        await self._ask_redis(tell)

    async def settle(self, limit: Limit, subject: str, *, remember: str, seconds: int) -> None:
        """What was counted is forgotten, and `remember` is remembered for so long."""
        key = self._key_of(limit, subject)
        self._local.forget(key, limit)

        async def tell() -> bool:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.delete(key)
            pipeline.set(self._memory_of(remember), 1, ex=seconds)
            await pipeline.execute()
            return True

        await self._ask_redis(tell)

    async def remembers(self, what: str) -> bool:
        """False also while Redis does not answer."""

        async def look() -> bool:
            return bool(await self._redis.exists(self._memory_of(what)))

        return await self._ask_redis(look) or False

    def _key_of(self, limit: Limit, subject: str) -> str:
        return f"{self._prefix}:rl:{limit.name}:{subject}"

    def _memory_of(self, what: str) -> str:
        return f"{self._prefix}:rl-known:{what}"

    async def _ask_redis(self, ask: Callable[[], Awaitable[Answer]]) -> Answer | None:
        """None while Redis does not answer: it is then left alone for some seconds."""
        if self._clock() < self._redis_down_until:
            return None
        try:
            return await ask()
        except (RedisError, OSError, TimeoutError) as error:
            self._redis_down_until = self._clock() + BREAKER_SECONDS
            log.warning("ratelimit.redis_unavailable", error=type(error).__name__)
            return None

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

    def hit(
        self, keys: Sequence[str], limits: Sequence[Limit], counts: Sequence[bool]
    ) -> list[int]:
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
                if counts[index]:
                    seconds = limit.window_seconds
                    self._counts.acquire_sliding_window_entry(key, limit.amount, seconds)
                    answer[3 * index] -= 1
        return answer

    def forget(self, key: str, limit: Limit) -> None:
        self._counts.clear_sliding_window(key, limit.window_seconds)


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
