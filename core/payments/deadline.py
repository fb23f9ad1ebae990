"""How long somebody waits for the provider, however many calls it takes."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from core.payments.provider import ProviderUnavailableError

Result = TypeVar("Result")

# Browsers and proxies give a click up from 15 s on, and then nobody says what became of it.
CLICK_SECONDS: Final = 12.0
# A look holds one of the few places of the tasks that wait for the provider.
LOOK_SECONDS: Final = 10.0


class Deadline:
    """Of one click or one look: begins when it is made. Transactions are not under it."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = asyncio.get_running_loop().time() + seconds

    async def hold(self, calls: Awaitable[Result]) -> Result:
        """Raises: ProviderUnavailableError when the time is over, and what `calls` raise."""
        try:
            async with asyncio.timeout_at(self._ends_at):
                return await calls
        except TimeoutError as error:
            raise ProviderUnavailableError("no_answer") from error
