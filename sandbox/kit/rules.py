"""When a fault rule strikes; what it matches is each sandbox's own business."""

import random


class Strikes:
    """`nth` counts the matches of the rule (1 = the first); `times` bounds the strikes."""

    __slots__ = ("_nth", "_rate", "_times", "fired", "seen")

    def __init__(self, *, nth: int | None, rate: float, times: int | None) -> None:
        self._nth = nth
        self._rate = rate
        self._times = times
        self.seen = 0
        self.fired = 0

    def draw(self, dice: random.Random) -> bool:
        """To be asked once for each match."""
        self.seen += 1
        if self._nth is not None and self.seen != self._nth:
            return False
        if self._times is not None and self.fired >= self._times:
            return False
        if self._rate < 1 and dice.random() >= self._rate:
            return False
        self.fired += 1
        return True
