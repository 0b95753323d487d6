"""Detects stalls of the router's own process.

A process that is stopped, swapped out or starved of CPU finds responses in its sockets that arrived
long ago. The apparent duration of such a call does not describe its engine. A missing beat reveals
the stall before the next beat: sockets are read before timers run.
"""

import math
from typing import Final

#: Time between two beats, in seconds.
BEAT_S: Final = 0.25
#: A busy loop runs late by some 10 ms; this is as late as a slow response.
LATE_S: Final = 0.5


class Heartbeat:
    """Records the beats of the event loop.

    Before the first beat, the process counts as running without stalls.

    Attributes:
        stood_still_until: End of the last stall, monotonic seconds; minus infinity if none.
    """

    __slots__ = ("_late_at", "stood_still_until")

    def __init__(self) -> None:
        self.stood_still_until = -math.inf
        self._late_at = math.inf

    def beat(self, now: float) -> None:
        """Record that the loop runs; call this every `BEAT_S` seconds."""
        if now > self._late_at:
            self.stood_still_until = now
        self._late_at = now + BEAT_S + LATE_S

    def ran_since(self, since: float, now: float) -> bool:
        """Whether the process has run without a stall between `since` and now."""
        return since >= self.stood_still_until and now <= self._late_at
