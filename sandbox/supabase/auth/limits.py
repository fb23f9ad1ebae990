"""The Auth server's own rate limits, in memory, off unless configured.

Requests are counted by address: buckets that hold 30 and fill at the rate of their group, one for
each route. Mails are counted for the whole project.
"""

import time
from collections import defaultdict
from typing import Literal

from sandbox.supabase.auth.errors import AuthError, email_rate_exceeded

Group = Literal["otp", "verify", "token", "mfa"]

# (requests, seconds) at which each bucket fills: the server's defaults.
RATES: dict[Group, tuple[int, int]] = {
    "otp": (30, 300),
    "verify": (30, 300),
    "token": (150, 300),
    "mfa": (15, 60),
}
BURST = 30


class Limiter:
    def __init__(self, *, enabled: bool, emails_per_hour_max: int | None) -> None:
        self._enabled = enabled
        self._emails_per_hour_max = emails_per_hour_max
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        self._mails: defaultdict[int, int] = defaultdict(int)

    def check(self, group: Group, route: str, address: str) -> None:
        """Raises: AuthError 429."""
        if not self._enabled:
            return
        requests, seconds = RATES[group]
        now = time.monotonic()
        left, since = self._buckets.get((route, address), (float(BURST), now))
        left = min(float(BURST), left + (now - since) * requests / seconds)
        if left < 1:
            raise AuthError(429, "over_request_rate_limit", "Request rate limit reached")
        self._buckets[route, address] = (left - 1, now)

    def check_email(self) -> None:
        """The project-wide budget of mails. Raises: AuthError 429."""
        limit = self._emails_per_hour_max
        hour = int(time.monotonic() // 3600)
        if limit is not None and self._mails[hour] >= limit:
            raise email_rate_exceeded()
        self._mails[hour] += 1
