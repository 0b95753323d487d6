"""How many windows an engine may have in service, and how many of those may be long work.

Two numbers per engine. The limit is where its throughput stops rising, by its learned curve: short
work may go up to it. Long work may go up to a lower one, and how much lower moves with the load:
little long work waiting leaves every engine quick, much of it fills the engines up to where they
are most productive.

Refuses to know: queues and engines; only a curve and a few sums.
"""

from dataclasses import dataclass

from vllm_router.policy.curve import ServiceCurve


@dataclass(frozen=True, slots=True)
class LimitRules:
    """The constants, each a ratio, so that they hold for any speed of engine and any time scale.

    Attributes:
        elasticity: The throughput has stopped rising where one percent more windows in service
            bring this many percent more windows per second. At 0.08 an H200 with large-v3 (peak 34,
            half at 11.6) has 133 windows in service and gives 92 % of all it could.
        least_limit: Windows that any engine may have: one being answered, one on its way.
        most_limit: vLLM takes 256 sequences at a time by default (`--max-num-seqs`).
        kept_for_short: Part of the limit that long work never takes.
        least_fill: Long work may always fill an engine up to so many times `half_at`.
        fill_per_wait: How much more it may for each base latency (`half_at / peak`) that the long
            work waiting would take the fleet to do.
        evenness: Long work on one engine may take up to so many times what it takes on the others;
            a file is done only when its last piece is.
    """

    elasticity: float = 0.08
    least_limit: float = 2.0
    most_limit: float = 256.0
    kept_for_short: float = 0.125
    least_fill: float = 2.0
    fill_per_wait: float = 0.9
    evenness: float = 1.25

    def limit(self, curve: ServiceCurve, fixed: int | None) -> float:
        """Return the windows that an engine may have in service; `fixed` is the operator's word."""
        if fixed is not None:
            return float(fixed)
        return min(max(curve.limit_at(self.elasticity), self.least_limit), self.most_limit)

    def fill(self, waiting_windows: int, half_at: float, peak_per_s: float) -> float:
        """Return up to how many times `half_at` long work may fill the engines.

        Args:
            waiting_windows: Windows of long work waiting.
            half_at: Sum over the engines in service.
            peak_per_s: Sum over the engines in service.
        """
        most = 1.0 / self.elasticity
        if peak_per_s <= 0.0 or half_at <= 0.0:
            return self.least_fill
        # Seconds to work them off, over half_at / peak: the peak cancels out.
        return min(most, self.least_fill + self.fill_per_wait * waiting_windows / half_at)

    def long_limit(
        self, curve: ServiceCurve, limit: float, fill: float, half_at: float, peak_per_s: float
    ) -> float:
        """Return the windows in service up to which an engine takes long work."""
        wanted = fill * curve.half_at
        if half_at > 0.0 and peak_per_s > 0.0:
            usual_s = half_at / peak_per_s * (fill + 1.0)
            wanted = min(wanted, self.evenness * usual_s * curve.peak_per_s - curve.half_at)
        return max(1.0, min(wanted, limit * (1.0 - self.kept_for_short)))
