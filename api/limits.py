"""Rate limits: by person or IP on every route, by mail address or IP on some."""

import hashlib
import ipaddress
from functools import lru_cache

from core.errors import RateLimitedError
from core.ratelimit import Decision, Limit, RateLimiter, parse_limit
from core.settings import Settings

# Every open tab refreshes about once an hour; a whole office may share one IP.
REFRESH_LIMIT = parse_limit("refresh", "150/5 minutes")
# Each try counts, right or wrong, before the code is read: many at once get no further.
CODES_LIMIT = parse_limit("codes", "10/hour")
# Enough for a buyer in an hour, and too few for trying out stolen cards.
CHECKOUT_LIMIT = parse_limit("checkout", "20/hour")


class RateLimits:
    """The limits of this process. RATE_LIMITS_ENABLED turns all off but `check_always`."""

    def __init__(self, limiter: RateLimiter, settings: Settings) -> None:
        self._limiter = limiter
        self._is_enabled = settings.rate_limits_enabled
        self._user = parse_limit("user", settings.rate_limit_user)
        self._ip = parse_limit("ip", settings.rate_limit_ip)
        self._mail = parse_limit("mail", settings.rate_limit_auth)
        self._named = {
            "auth": parse_limit("auth", settings.rate_limit_auth),
            "refresh": REFRESH_LIMIT,
            "codes": CODES_LIMIT,
            "checkout": CHECKOUT_LIMIT,
        }

    async def count_request(
        self, *, user_id: object | None, client_ip: str, named: str | None, route: str
    ) -> Decision | None:
        """Count one request of a person, or of an IP where nobody has signed in, and once more
        against the limit that its route names. None while the limits are off."""
        if not self._is_enabled:
            return None
        subject = _ip_subject(client_ip) if user_id is None else f"user:{user_id}"
        checks = [(self._ip if user_id is None else self._user, subject)]
        if named is not None:
            checks.append((self._named[named], f"{subject}:{route}"))
        return await self._limiter.hit(checks)

    async def check_ip(self, limit: Limit, client_ip: str) -> None:
        """Many accounts behind one IP count together.  Raises: RateLimitedError."""
        if self._is_enabled:
            await self.check_always(limit, client_ip)

    async def check_mail(self, email: str) -> None:
        """Attempts for one mail address, wherever they come from; the address itself is not kept.

        Raises: RateLimitedError.
        """
        if self._is_enabled:
            digest = hashlib.sha256(email.strip().lower().encode()).hexdigest()[:32]
            refuse_unless_allowed(await self._limiter.hit([(self._mail, digest)]))

    async def check_always(self, limit: Limit, client_ip: str) -> None:
        """Also while the limits are off.  Raises: RateLimitedError."""
        refuse_unless_allowed(await self._limiter.hit([(limit, _ip_subject(client_ip))]))


@lru_cache(4096)
def _ip_subject(client_ip: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: one network has all addresses of it."""
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return f"ip:{client_ip}"
    if isinstance(address, ipaddress.IPv4Address):
        return f"ip:{address}"
    if address.ipv4_mapped:
        return f"ip:{address.ipv4_mapped}"
    return f"ip:{ipaddress.ip_network((address, 64), strict=False)}"


def refuse_unless_allowed(decision: Decision) -> None:
    """Raises: RateLimitedError."""
    if not decision.allowed:
        raise RateLimitedError(
            retry_after_seconds=decision.retry_after_seconds, policy=decision.limit.name
        )
