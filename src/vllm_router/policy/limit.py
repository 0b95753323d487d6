"""How many windows an engine may have in service, and how many of those may be long work.

Two numbers per engine. The limit is where its throughput stops rising, by its learned curve: short
work may go up to it. Long work may go up to a lower one, and how much lower moves with the load:
while little long work waits, engines are left quick; when much waits, they are filled to where they
are most productive.

Refuses to know: queues and engines; only a curve and a few sums.
"""

import math
from dataclasses import dataclass

from vllm_router.policy.curve import ServiceCurve


@dataclass(frozen=True, slots=True)
class LimitRules:
    """The constants, each a ratio, so that they hold for any speed of engine and any time scale.

    The fill is up to how many times `half_at` long work may fill an engine. `first_fill` to `pace`
    were chosen with benchmarks/simulate.py, on seeds that its tables only partly show.

    Attributes:
        elasticity: The throughput has stopped rising where one percent more windows in service
            bring this many percent more windows per second. At 0.06 an H200 with large-v3 (peak 34,
            half at 11.6) has 182 windows in service and gives 94 % of all it could.
        least_limit: Windows that any engine may have: one being answered, one on its way.
        most_limit: vLLM takes 256 sequences at a time by default (`--max-num-seqs`).
        kept_for_short: Part of the limit that long work never takes.
        least_fill: Where the fill ends on an idle fleet: two thirds of the peak.
        first_fill: Where it begins before any load has been seen.
        quiet_share: Part of the engines that are kept quiet: long work fills them less, so that a
            short request finds one on which it is done soon. Spread evenly, the same long work
            makes it as slow everywhere.
        quiet_fill: The fill up to which those are filled like all.
        quiet_rise: How much further they are filled, for each step that the others are.
        most_fill: Where it ends under more load than the fleet can carry.
        wait_per_service: The wait of long work that is aimed at, over the time a window takes, at
            the first fill.
        wait_growth: With which power of the fill that wait grows: the more a further window would
            cost short requests, the longer long work waits before it is allowed one.
        haste: How much faster the fill may rise than it falls.
        pace: How fast the fill moves, relative, per base latency (`half_at / peak`). At 0.003 it
            doubles in a minute or so on an H200: jumping with each file that comes would make short
            requests pay for all of them.
        longest_step: Base latencies that a single move may stand for.
        evenness: Long work on one engine may take up to so many times what it takes on the others;
            a file is done only when its last piece is.
    """

    elasticity: float = 0.06
    least_limit: float = 2.0
    most_limit: float = 256.0
    kept_for_short: float = 0.125
    least_fill: float = 2.0
    first_fill: float = 9.0
    quiet_share: float = 0.375
    quiet_fill: float = 4.5
    quiet_rise: float = 0.3
    most_fill: float = 14.0
    wait_per_service: float = 0.3
    wait_growth: float = 2.5
    haste: float = 3.0
    pace: float = 0.003
    longest_step: float = 30.0
    evenness: float = 1.25

    def limit(self, curve: ServiceCurve, fixed: int | None) -> float:
        """Return the windows that an engine may have in service; `fixed` is the operator's word."""
        if fixed is not None:
            return float(fixed)
        return min(max(curve.limit_at(self.elasticity), self.least_limit), self.most_limit)

    def fill(self, fill: float, waiting: float, passed: float) -> float:
        """Return up to how many times `half_at` long work may fill the engines from now on.

        Args:
            fill: What held until now.
            waiting: Windows of long work waiting, over the sum of `half_at` of the engines.
            passed: Time since the last call, in base latencies of the fleet.
        """
        # The wait over what a window takes at this fill: both are a number of base latencies.
        wait = waiting / fill
        aim = self.wait_per_service * (fill / self.first_fill) ** self.wait_growth
        error = max(-1.0, min(self.haste, wait / aim - 1.0))
        step = self.pace * min(passed, self.longest_step) * error
        return float(min(max(fill * math.exp(step), self.least_fill), self.most_fill))

    def quiet(self, fill: float) -> float:
        """Return the fill of quiet engines while the others have the given one."""
        return min(fill, self.quiet_fill + self.quiet_rise * (fill - self.quiet_fill))

    def long_limit(
        self, curve: ServiceCurve, limit: float, fill: float, half_at: float, peak_per_s: float
    ) -> float:
        """Return the windows in service up to which an engine takes long work."""
        wanted = fill * curve.half_at
        if half_at > 0.0 and peak_per_s > 0.0:
            usual_s = half_at / peak_per_s * (fill + 1.0)
            wanted = min(wanted, self.evenness * usual_s * curve.peak_per_s - curve.half_at)
        return max(1.0, min(wanted, limit * (1.0 - self.kept_for_short)))
