"""What the routes that sell need: who sells, who buys, and waiting for what a worker finds out."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from api.identity import User
from api.resources import Resources
from core.errors import NotSetUpError
from core.payments.checkout import Buyer, Cashier
from core.payments.stripe.client import StripeGateway

LOOK_SECONDS = 0.2
WAIT_SECONDS_MAX = 25
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)

Found = TypeVar("Found")


def parse_prefer_wait(prefer: str | None) -> int:
    """Seconds of `Prefer: wait=n` (RFC 7240), at most 25; 0 without it."""
    found = _WAIT.search(prefer) if prefer else None
    return min(int(found.group(1)), WAIT_SECONDS_MAX) if found else 0


def gateway_of(resources: Resources) -> StripeGateway:
    """Raises: NotSetUpError."""
    if resources.payments is None:
        raise NotSetUpError(what="payments")
    return resources.payments


def cashier_of(resources: Resources) -> Cashier:
    """Raises: NotSetUpError."""
    return Cashier(resources.db, gateway_of(resources), resources.settings)


def buyer_of(user: User) -> Buyer:
    return Buyer(user.claims.user_id, user.claims.email, user.scope)


async def wait_until(
    is_settled: Callable[[Found], bool],
    read: Callable[[], Awaitable[Found]],
    *,
    seconds: float,
) -> Found:
    """What `read` finds once it is settled, or after `seconds`. Between looks nothing is held."""
    until = time.monotonic() + seconds
    while True:
        found = await read()
        left = until - time.monotonic()
        if is_settled(found) or left <= 0:
            return found
        await asyncio.sleep(min(LOOK_SECONDS, left))
