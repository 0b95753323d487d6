"""When an unanswered call is overdue, so that its work should also go to another engine.

The service curve gives the usual time for such work at the engine's current load. A call is overdue
after a multiple of that. Being overdue proves nothing. It costs a second call to another engine and
a probe of this one, but never the call itself, so an engine that is merely slow loses only the
race. The multiple has an empirical lower bound: a GPU throttled to a quarter of its clock, plus
some queueing, must stay below it. Otherwise the whole fleet would be called twice when it has the
least capacity.

Refuses to know: engines, clocks, and what follows.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SuspicionRules:
    """Thresholds for overdue calls.

    Attributes:
        factor: Multiple of the usual time on an engine of known speed. Above 4, which a throttled
            GPU takes, and below 10, at which a response counts as far too late
            (`HealthRules.outlier_factor`).
        floor_s: No call is overdue sooner. A garbage collection, a burst at the engine that this
            router has not seen, or a lost packet takes a second or two.
        unknown_factor: Like `factor`, for an engine that has answered nothing. Its usual time is
            then a guess from its type and its peers.
        unknown_floor_s: Like `floor_s`, for an engine that has answered nothing. A cold engine
            compiles and loads during its first requests.
        known_answers: Responses after which the curve is trusted. With fewer, the thresholds are
            interpolated.
        stall_s: A call to an unknown engine is overdue after this long even if no other engine has
            answered in the meantime. Before that, everything is slow, and more work would make it
            slower.
        idle_stall_s: The same if another engine is idle, because using it slows nothing down.
        recheck_s: Seconds until an overdue call that could not go to another engine is checked
            again.
    """

    factor: float = 6.0
    floor_s: float = 3.0
    unknown_factor: float = 12.0
    unknown_floor_s: float = 5.0
    known_answers: float = 12.0
    stall_s: float = 30.0
    idle_stall_s: float = 5.0
    recheck_s: float = 1.0

    def overdue_after_s(self, usual_s: float, answers: float) -> float:
        """Return the time after which a call is overdue, in seconds.

        Args:
            usual_s: Usual time for such work on the engine at its current load, 0 or more.
            answers: Responses that this estimate rests on, with decay, 0 or more.

        Returns:
            At least `floor_s` and at least `factor * usual_s`.
        """
        doubt = 1.0 - answers / self.known_answers
        if doubt < 0.0:
            doubt = 0.0
        floor_s = self.floor_s + doubt * (self.unknown_floor_s - self.floor_s)
        factor = self.factor + doubt * (self.unknown_factor - self.factor)
        return max(floor_s, factor * usual_s)

    def is_known(self, answers: float) -> bool:
        """Whether this many responses reveal an engine's speed."""
        return answers >= self.known_answers
