"""Whether the router's own process ran all through a span of time.

A process that is stopped, swapped out or starved of CPU finds answers in its sockets that came long
ago. How long such a call seems to have taken says nothing of its engine. A beat that is missing
shows it before the next one comes: what lies in the sockets is read before timers run.
"""

import math
from typing import Final

#: Time between two beats.
BEAT_S: Final = 0.25
#: A busy loop runs late by some 10 ms; an answer that is late by this much is one that took long.
LATE_S: Final = 0.5


class Heartbeat:
    """Notes the beats of the event loop.

    Until the first beat every span passes for one that the process ran through.

    Attributes:
        stood_still_until: End of the last standstill, monotonic seconds; minus infinity: none yet.
    """

    __slots__ = ("_late_at", "stood_still_until")

    def __init__(self) -> None:
        self.stood_still_until = -math.inf
        self._late_at = math.inf

    def beat(self, now: float) -> None:
        """Note that the loop runs; to be called every `BEAT_S` seconds."""
        if now > self._late_at:
            self.stood_still_until = now
        self._late_at = now + BEAT_S + LATE_S

    def ran_since(self, since: float, now: float) -> bool:
        """Whether the process has run from a point in time until now."""
        return since >= self.stood_still_until and now <= self._late_at
