"""A rate limit that the middleware cannot see, because its subject stands in the body."""

import hashlib

from core.errors import RateLimitedError
from core.ratelimit import Limit, RateLimiter


class AddressLimit:
    """Attempts per mail address, wherever they come from. The address itself is not kept."""

    def __init__(self, limiter: RateLimiter | None, limit: Limit) -> None:
        self._limiter = limiter
        self._limit = limit

    async def check(self, email: str) -> None:
        """Raises: RateLimitedError."""
        if self._limiter is None:
            return
        subject = hashlib.sha256(email.strip().lower().encode()).hexdigest()[:32]
        decision = await self._limiter.hit([(self._limit, subject)])
        if not decision.allowed:
            raise RateLimitedError(
                retry_after_seconds=decision.retry_after_seconds, policy=decision.limit.name
            )
