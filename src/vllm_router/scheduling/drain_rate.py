"""The current rate at which a queue drains."""

import math
from typing import Final

#: Long enough to average over the responses of a few files, short enough to be current.
DRAIN_MEMORY_S: Final = 5.0
# A finer resolution would only cost time.
_GRAIN_S: Final = 0.1


class DrainRate:
    """Windows finished per second, with exponential decay."""

    __slots__ = ("_at", "_since", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._at = 0.0
        self._since: float | None = None

    def note(self, windows: int, now: float) -> None:
        """Count finished windows."""
        if self._since is None:
            self._since = self._at = now
        elif now - self._at > _GRAIN_S:
            self._sum *= math.exp((self._at - now) / DRAIN_MEMORY_S)
            self._at = now
        self._sum += windows

    def per_s(self, now: float) -> float:
        """Return windows per second over the last few seconds; 0 before any has finished."""
        if self._since is None:
            return 0.0
        # A sum that has only just begun is divided by the time that it covers.
        seen = 1.0 - math.exp(min(0.0, self._since - now) / DRAIN_MEMORY_S)
        left = self._sum * math.exp(min(0.0, self._at - now) / DRAIN_MEMORY_S)
        return left / (DRAIN_MEMORY_S * max(seen, 0.02))


def expected_wait_s(windows: float, per_s: float) -> float:
    """Return the time to finish this many windows; infinite at a rate of 0."""
    if windows <= 0:
        return 0.0
    return windows / per_s if per_s > 0 else math.inf
