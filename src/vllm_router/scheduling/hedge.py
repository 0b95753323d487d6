"""When a short request that is still unanswered is sent to a second engine as well.

After Dean and Barroso, "The Tail at Scale" (2013): wait until the request has taken longer than the
95th percentile of its kind, then send it again and use whichever answer comes first. About one
request in twenty waits that long, so the extra work stays near 5 %; a budget makes sure of it when
everything slows down at once.

Refuses to know: engines, tickets. The percentile is of what it is told.
"""

import math
from typing import Final

_QUANTILE: Final = 0.95
# Buckets of a tenth of a power of e: 10 % wide, from 10 ms to beyond an hour.
_PER_E: Final = 10.0
_LEAST_S: Final = 0.01
_BUCKETS: Final = 130
# The counts are halved when they reach this: some thousand of the latest answers decide.
_MOST: Final = 2000.0
# Fewer answers than this say nothing about a 95th percentile.
_FEWEST: Final = 40.0
# So many hedges may come in a burst before the share is held to.
_BURST: Final = 3.0


class Hedge:
    """A running percentile and a budget.

    Args:
        after_s: Wait before hedging, seconds; None: the running 95th percentile.
        share: Hedges per answer, at most.
    """

    __slots__ = ("_after_s", "_allowed", "_count", "_counts", "_share")

    def __init__(self, after_s: float | None = None, share: float = 0.05) -> None:
        self._after_s = after_s
        self._share = share
        self._allowed = _BURST
        self._counts = [0.0] * _BUCKETS
        self._count = 0.0

    def answered(self, seconds: float) -> None:
        """Note how long a short request took on its engine."""
        place = int(_PER_E * math.log(max(seconds, _LEAST_S) / _LEAST_S))
        self._counts[min(place, _BUCKETS - 1)] += 1.0
        self._count += 1.0
        self._allowed = min(_BURST, self._allowed + self._share)
        if self._count >= _MOST:
            self._counts = [count / 2.0 for count in self._counts]
            self._count = sum(self._counts)

    def delay_s(self) -> float | None:
        """Return how long to wait before hedging; None: too little is known to hedge."""
        if self._after_s is not None:
            return self._after_s
        if self._count < _FEWEST:
            return None
        above = self._count * (1.0 - _QUANTILE)
        place = _BUCKETS
        while above >= 0.0:
            place -= 1
            above -= self._counts[place]
        # The bucket's upper edge: rather too late than too often.
        return float(_LEAST_S * math.exp((place + 1) / _PER_E))

    def spend(self) -> bool:
        """Take one hedge out of the budget; False, and nothing taken, if there is none."""
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True
