"""When an engine is taken out, for how long, and how it comes back.

Three bad answers in a row take an engine out. Answers to live traffic and to probes are counted
apart, because a black hole may answer its probes: only live traffic clears live failures, while
either clears failed probes (busy is not dead).

Bounds: the number of engines out by live traffic never exceeds half of those that serve a model;
the others are given one request at a time instead, so that all are tried rather than none.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HealthRules:
    """The numbers behind the rules.

    Attributes:
        strikes: Bad answers in a row that take an engine out.
        ejection_s: How long the first ejection lasts at least; each further one twice as long. One
            second lets an engine that was restarted come back soon; Envoy's 30 s is for hosts that
            are not probed.
        longest_ejection_s: Where the doubling ends (Envoy's `max_ejection_time`).
        longest_retrial_s: Where it ends for an engine that passes its probes. It is tried again
            with one upload, which goes to another engine if it fails: that costs next to nothing,
            and an engine that has recovered is back soon.
        longest_rest_s: The longest rest that an engine may ask for.
        forgiven_after_s: After so long without an ejection the next counts as the first again.
        slow_start_s: Time in which a returned engine grows from one window at a time to its limit.
        comeback_s: An engine that has been out for less may be back any moment; past it something
            is wrong that time alone will not mend.
        withheld_s: How long an engine gets no work for a model that it lists and does not have.
        trial_pause_s: Wait between two trials of an engine that fails but may not be ejected.
            Short, for then most engines fail, and their clients are to be told soon.
        busy_grace_s: A probe that times out does not count when a live answer came this recently.
        outlier_factor: A latency so many times the engine's own usual one, and at the same time the
            fleet's, takes it out. Far above any mix of GPUs and any load, because a slow engine is
            already given less work; ten is a GPU that has fallen off the bus.
        outlier_floor_s: No answer quicker than this is far too late, whatever the usual: a router's
            own machine may stall for a second.
        outlier_answers: Answers in a row with such a latency that take an engine out.
    """

    strikes: int = 3
    ejection_s: float = 1.0
    longest_ejection_s: float = 300.0
    longest_retrial_s: float = 15.0
    longest_rest_s: float = 30.0
    withheld_s: float = 20.0
    forgiven_after_s: float = 300.0
    slow_start_s: float = 10.0
    comeback_s: float = 60.0
    trial_pause_s: float = 0.1
    busy_grace_s: float = 10.0
    outlier_factor: float = 10.0
    outlier_floor_s: float = 3.0
    outlier_answers: int = 5

    def ejection_for(self, times: int) -> float:
        """Return how many seconds the ejection lasts that is an engine's `times`-th, from 1."""
        return float(min(self.longest_ejection_s, self.ejection_s * 2.0 ** min(times - 1, 30)))

    def may_eject(self, ejected: int, members: int) -> bool:
        """Return whether one more of `members` engines may be ejected when `ejected` are out."""
        return 2 * (ejected + 1) <= members

    def warmth(self, in_service_s: float) -> float:
        """Return the part of its limit, above 0 and up to 1, that a returned engine may use."""
        if in_service_s >= self.slow_start_s:
            return 1.0
        return max(0.05, in_service_s / self.slow_start_s)
