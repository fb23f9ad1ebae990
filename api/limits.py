"""Rate limits beside the middleware's: by an address in the body, by network for who signed in."""

import hashlib
from collections.abc import Mapping

from core.errors import RateLimitedError
from core.ratelimit import Limit, RateLimiter, parse_limit
from core.settings import Settings

# Every open tab refreshes about once an hour; a whole office may share one address.
REFRESH_LIMIT = parse_limit("refresh", "150/5 minutes")
# Each try counts, right or wrong, before the code is looked at: many at once get no further.
CODES_LIMIT = parse_limit("codes", "10/hour")
# What a person who buys needs in an hour; who tries out stolen cards wants more.
CHECKOUT_LIMIT = parse_limit("checkout", "20/hour")


def named_limits(settings: Settings) -> Mapping[str, Limit]:
    """Those that hold for every route (`user`, `ip`), and those that a route names in `opt`."""
    return {
        "user": parse_limit("user", settings.rate_limit_user),
        "ip": parse_limit("ip", settings.rate_limit_ip),
        "auth": parse_limit("auth", settings.rate_limit_auth),
        "refresh": REFRESH_LIMIT,
        "codes": CODES_LIMIT,
        "checkout": CHECKOUT_LIMIT,
    }


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
