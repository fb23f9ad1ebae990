"""Rate limits beside the middleware's: by an address in the body, by network for who signed in."""

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


async def check_network(limiter: RateLimiter | None, limit: Limit, client_ip: str) -> None:
    """Many accounts behind one address count together.  Raises: RateLimitedError."""
    if limiter is None:
        return
    decision = await limiter.hit([(limit, f"ip:{client_ip}")])
    if not decision.allowed:
        raise RateLimitedError(
            retry_after_seconds=decision.retry_after_seconds, policy=decision.limit.name
        )
