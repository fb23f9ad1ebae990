"""The Auth server's own rate limits: fixed windows in memory, off unless configured."""

import time
from collections import defaultdict
from typing import Literal

from sandbox.supabase.auth.errors import AuthError, email_rate_exceeded

Group = Literal["otp", "verify", "token", "mfa"]

# (requests, seconds) per address: the server's defaults.
WINDOWS: dict[Group, tuple[int, int]] = {
    "otp": (30, 300),
    "verify": (30, 300),
    "token": (150, 300),
    "mfa": (15, 60),
}


class Limiter:
    def __init__(self, *, enabled: bool, emails_per_hour_max: int | None) -> None:
        self._enabled = enabled
        self._emails_per_hour_max = emails_per_hour_max
        self._counts: dict[tuple[str, str, int], int] = defaultdict(int)

    def check(self, group: Group, address: str) -> None:
        """Raises: AuthError 429."""
        if not self._enabled:
            return
        limit, seconds = WINDOWS[group]
        if self._count(group, address, seconds) > limit:
            raise AuthError(429, "over_request_rate_limit", "Request rate limit reached")

    def check_email(self) -> None:
        """The project-wide budget of mails. Raises: AuthError 429."""
        limit = self._emails_per_hour_max
        if limit is not None and self._count("email", "", 3600) > limit:
            raise email_rate_exceeded()

    def _count(self, group: str, address: str, seconds: int) -> int:
        window = (group, address, int(time.monotonic() // seconds))
        self._counts[window] += 1
        return self._counts[window]
