"""May a failed attempt be repeated?

A transcription has no side effect, so repeating one is sound; what it must not do is double the
load of a fleet that is failing because of load. The budget allows repeats up to a share of live
traffic, and a few per second whatever the traffic, so that a quiet router still repeats. Finagle's
RetryBudget is the model, with exponential forgetting in place of its window of buckets: over the
last ten seconds or so, repeats <= share * requests + floor * 10 s.

Work that an engine's death cuts off is granted one repeat each (`grant`): when one of two engines
dies under a hundred long requests, a share of new traffic would not cover them, and repeating them
adds nothing to what the fleet had already taken on.
"""

import math
from typing import Final

# Finagle's default window.
_MEMORY_S: Final = 10.0


class RetryBudget:
    """Counts requests and repeats, and says whether one more repeat is within bounds.

    Args:
        share: Repeats per request that live traffic earns.
        floor_per_s: Repeats per second that are always allowed.
    """

    __slots__ = ("_at", "_floor", "_left", "_share")

    def __init__(self, share: float = 0.2, floor_per_s: float = 3.0) -> None:
        self._share = share
        self._floor = floor_per_s * _MEMORY_S
        self._left = 0.0
        self._at = 0.0

    def earn(self, now: float) -> None:
        """Count a request."""
        self._forget(now)
        self._left += self._share

    def grant(self, repeats: float, now: float) -> None:
        """Allow so many further repeats."""
        self._forget(now)
        self._left += repeats

    def spend(self, now: float) -> bool:
        """Take one repeat out of the budget; False, and nothing taken, if there is none."""
        self._forget(now)
        if self._left + self._floor < 1.0:
            return False
        self._left -= 1.0
        return True

    def _forget(self, now: float) -> None:
        # Finer steps than a tenth of a second would only cost time.
        if now - self._at > 0.1:
            self._left *= math.exp((self._at - now) / _MEMORY_S)
            self._at = now
