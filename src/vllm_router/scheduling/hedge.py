"""When to send an unanswered short request to a second engine as well.

After Dean and Barroso, "The Tail at Scale" (2013): wait until the request has taken longer than the
95th percentile of its kind, then send it again and use the first response. About one request in
twenty waits that long, so the extra work stays near 5 %. A budget enforces this when everything
slows down at once.

Refuses to know: engines and tickets.
"""

import math
from typing import Final

_QUANTILE: Final = 0.95
# Buckets 10 % wide (a tenth of a power of e), from 10 ms to over an hour.
_PER_E: Final = 10.0
_LEAST_S: Final = 0.01
_BUCKETS: Final = 130
# The counts are halved at this total, so the latest one or two thousand responses decide.
_MOST: Final = 2000.0
# Fewer responses than this do not define a 95th percentile.
_FEWEST: Final = 40.0
# Hedges allowed in a burst before the share applies.
_BURST: Final = 3.0


class Hedge:
    """A running percentile and a budget.

    Args:
        after_s: Wait before hedging, in seconds; None for the running 95th percentile.
        share: Maximum hedges per response.
    """

    __slots__ = ("_after_s", "_allowed", "_count", "_counts", "_share")

    def __init__(self, after_s: float | None = None, share: float = 0.05) -> None:
        self._after_s = after_s
        self._share = share
        self._allowed = _BURST
        self._counts = [0.0] * _BUCKETS
        self._count = 0.0

    def answered(self, seconds: float) -> None:
        """Record how long a short request took on its engine, in seconds."""
        place = int(_PER_E * math.log(max(seconds, _LEAST_S) / _LEAST_S))
        self._counts[min(place, _BUCKETS - 1)] += 1.0
        self._count += 1.0
        self._allowed = min(_BURST, self._allowed + self._share)
        if self._count >= _MOST:
            self._counts = [count / 2.0 for count in self._counts]
            self._count = sum(self._counts)

    def delay_s(self) -> float | None:
        """Return how long to wait before hedging, in seconds; None while too little is known."""
        if self._after_s is not None:
            return self._after_s
        if self._count < _FEWEST:
            return None
        above = self._count * (1.0 - _QUANTILE)
        place = _BUCKETS
        while above >= 0.0:
            place -= 1
            above -= self._counts[place]
        # The bucket's upper edge: hedging too late is better than too often.
        return float(_LEAST_S * math.exp((place + 1) / _PER_E))

    def spend(self) -> bool:
        """Take one hedge from the budget; return False and take nothing if it is empty."""
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True
