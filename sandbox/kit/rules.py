"""When a fault rule applies. Which requests match it is decided by each sandbox."""

import random


class Trigger:
    """`nth` counts the matches of the rule (1 = the first); `times` bounds how often it applies."""

    __slots__ = ("_nth", "_rate", "_times", "fired", "seen")

    def __init__(self, *, nth: int | None, rate: float, times: int | None) -> None:
        self._nth = nth
        self._rate = rate
        self._times = times
        self.seen = 0
        self.fired = 0

    def fires(self, rng: random.Random) -> bool:
        """Whether the rule applies to this match. Called once for each match."""
        self.seen += 1
        if self._nth is not None and self.seen != self._nth:
            return False
        if self._times is not None and self.fired >= self._times:
            return False
        if self._rate < 1 and rng.random() >= self._rate:
            return False
        self.fired += 1
        return True
