"""Rules for ejecting engines, for how long, and for their return.

Three consecutive bad answers eject an engine. Failures of live traffic and of probes are counted
separately, because a black hole may pass its probes: only live responses clear live failures, while
either clears failed probes (busy is not dead).

Bounds: live traffic never ejects more than half of the engines that serve a model. Beyond that,
failing engines get one request at a time, so that all are tried rather than none.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HealthRules:
    """Thresholds for ejection and return.

    Attributes:
        strikes: Consecutive bad answers that eject an engine.
        ejection_s: Minimum length of the first ejection; each further one is twice as long. One
            second lets a restarted engine return soon; Envoy's 30 s is for hosts that are not
            probed.
        longest_ejection_s: Upper bound of the doubling (Envoy's `max_ejection_time`).
        longest_retrial_s: The same for an engine that passes its probes. Its trial is one upload,
            which goes to another engine if it fails. That costs almost nothing, and an engine that
            has recovered returns soon.
        longest_rest_s: The longest rest that an engine may ask for.
        forgiven_after_s: Time without an ejection after which the next counts as the first again.
        slow_start_s: Time in which a returned engine ramps up from one window to its limit.
        comeback_s: An engine that has been out for less may return any moment; beyond it, waiting
            alone is unlikely to help.
        withheld_s: How long an engine gets no work for a model that it lists but does not have.
        trial_pause_s: Pause between two trials of an engine that fails but may not be ejected.
            Short, because then most engines fail and clients should get an error soon.
        busy_grace_s: A probe timeout does not count if a live response came this recently.
        outlier_factor: A latency this many times the engine's own usual one, and also the fleet's,
            is an outlier. Far above any mix of GPUs and any load, because a slow engine already
            gets less work; a factor of ten is a GPU that has fallen off the bus.
        outlier_floor_s: No response faster than this is an outlier, whatever is usual: the router's
            own machine may stall for a second.
        outlier_answers: Consecutive outliers that eject an engine.
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
        """Return the length of an engine's `times`-th ejection, counted from 1, in seconds."""
        return float(min(self.longest_ejection_s, self.ejection_s * 2.0 ** min(times - 1, 30)))

    def may_eject(self, ejected: int, members: int) -> bool:
        """Return whether another of `members` engines may be ejected when `ejected` already are."""
        return 2 * (ejected + 1) <= members

    def warmth(self, in_service_s: float) -> float:
        """Return the share of its limit, above 0 and up to 1, that a returned engine may use."""
        if in_service_s >= self.slow_start_s:
            return 1.0
        return max(0.05, in_service_s / self.slow_start_s)
