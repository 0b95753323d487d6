"""A budget for retries.

A transcription has no side effects, so retrying one is safe, but retries must not double the load
of a fleet that fails because of load. The budget allows retries up to a share of live traffic, plus
a few per second regardless of traffic, so that a quiet router can still retry. It follows Finagle's
RetryBudget, with exponential decay in place of the window of buckets: over about the last ten
seconds, retries <= share * requests + floor * 10 s.

Work cut off by an engine's crash is granted one retry each (`grant`). If one of two engines crashes
under a hundred long requests, a share of new traffic would not cover them, and retrying them adds
nothing to the load that the fleet had already accepted.
"""

import math
from typing import Final

# Finagle's default window.
_MEMORY_S: Final = 10.0


class RetryBudget:
    """Counts requests and retries, and decides whether one more retry is allowed.

    Args:
        share: Retries earned per request of live traffic.
        floor_per_s: Retries per second that are always allowed.
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
        """Allow this many additional retries."""
        self._forget(now)
        self._left += repeats

    def spend(self, now: float) -> bool:
        """Take one retry from the budget; return False and take nothing if it is empty."""
        self._forget(now)
        if self._left + self._floor < 1.0:
            return False
        self._left -= 1.0
        return True

    def _forget(self, now: float) -> None:
        # A resolution finer than a tenth of a second would only cost time.
        if now - self._at > 0.1:
            self._left *= math.exp((self._at - now) / _MEMORY_S)
            self._at = now
