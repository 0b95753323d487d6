"""When an unanswered call is overdue, so that its work should go to another engine as well.

The service curve says how long such work usually takes at the engine's present load. A call is
overdue after a multiple of that. Being overdue proves nothing: it costs a second call to another
engine and a probe of this one, never the call itself, so a slow engine that works loses nothing but
the race. The multiple still has a lower bound by experience: a GPU that is throttled to a quarter
of its clock, with some queueing on top, must stay below it, or the whole fleet would be asked twice
in the moment in which it has the least to give.

Refuses to know: engines, clocks, what follows.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SuspicionRules:
    """The numbers behind the rule.

    Attributes:
        factor: Times the usual time of such work, on an engine whose speed is known. Above 4, which
            a throttled GPU takes, and below 10, at which an answer counts as far too late
            (`HealthRules.outlier_factor`).
        floor_s: No call is overdue sooner. A garbage collection, a burst at the engine that this
            router has not seen, or a lost packet take a second or two.
        unknown_factor: The same as `factor` while the engine has answered nothing. Its usual time
            is then a guess from its kind and from its peers.
        unknown_floor_s: The same as `floor_s` while the engine has answered nothing. A cold engine
            compiles and loads during its first requests.
        known_answers: Answers after which the curve is trusted; in between, the bounds are too.
        stall_s: A call to an unknown engine is overdue after this long even where no other engine
            has answered anything meanwhile. Before that, everything is slow, and more work would
            make it slower.
        idle_stall_s: The same where another engine has nothing to do, which nothing makes slower.
        recheck_s: Seconds until a call is looked at again that is overdue but could not be given to
            another engine.
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
        """Return the seconds after which a call is overdue.

        Args:
            usual_s: What such work usually takes there at its present load, 0 or more.
            answers: Answers from which that is known, 0 or more; with forgetting.

        Returns:
            Never less than `floor_s` nor than `factor * usual_s`.
        """
        doubt = 1.0 - answers / self.known_answers
        if doubt < 0.0:
            doubt = 0.0
        floor_s = self.floor_s + doubt * (self.unknown_floor_s - self.floor_s)
        factor = self.factor + doubt * (self.unknown_factor - self.factor)
        return max(floor_s, factor * usual_s)

    def is_known(self, answers: float) -> bool:
        """Whether so many answers tell an engine's speed."""
        return answers >= self.known_answers
