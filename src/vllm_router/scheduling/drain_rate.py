"""How fast a queue drains at present."""

import math
from typing import Final

#: Long enough to average over the answers of a few files, short enough to be the present.
DRAIN_MEMORY_S: Final = 5.0
# Finer steps would only cost time.
_GRAIN_S: Final = 0.1


class DrainRate:
    """Windows finished per second, forgetting exponentially."""

    __slots__ = ("_at", "_since", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._at = 0.0
        self._since: float | None = None

    def note(self, windows: int, now: float) -> None:
        """Count windows that are done."""
        if self._since is None:
            self._since = self._at = now
        elif now - self._at > _GRAIN_S:
            self._sum *= math.exp((self._at - now) / DRAIN_MEMORY_S)
            self._at = now
        self._sum += windows

    def per_s(self, now: float) -> float:
        """Return windows per second over the last few seconds; 0 before anything is done."""
        if self._since is None:
            return 0.0
        # A sum that has only just begun is compared with the time it has had.
        seen = 1.0 - math.exp(min(0.0, self._since - now) / DRAIN_MEMORY_S)
        left = self._sum * math.exp(min(0.0, self._at - now) / DRAIN_MEMORY_S)
        return left / (DRAIN_MEMORY_S * max(seen, 0.02))


def expected_wait_s(windows: float, per_s: float) -> float:
    """Return how long it takes to work off so many windows; infinite when nothing gets done."""
    if windows <= 0:
        return 0.0
    return windows / per_s if per_s > 0 else math.inf
