"""How many windows an engine may have in service, and how many of them may be long work.

Each engine has two numbers. The limit is the point where its throughput stops rising, by its
learned curve; short work may use all of it. Long work may use less, and how much less follows the
load: while little long work waits, engines stay fast; when much waits, they are filled to where
they are most productive.

Refuses to know: queues and engines. It sees only a curve and a few sums.
"""

import math
from dataclasses import dataclass
from typing import Final

# Cache usage from which capacity can be extrapolated: at a few percent, rounding dominates.
_TELLING_USAGE: Final = 0.1
_TELLING_WINDOWS: Final = 4.0
# Windows differ in how much cache they use.
_CACHE_MARGIN: Final = 0.97
# Decay per scrape of the highest number seen running.
_FORGETTING: Final = 0.98
# Growth for a full engine that queues nothing: fast until several scrapes have shown waiting
# windows, because a burst that has just arrived waits briefly on any engine.
_QUICKER: Final = 2.0
_SLOWER: Final = 1.03
_SURE_AFTER: Final = 2
_NEARLY: Final = 0.9
# Capacity of an engine that preempted windows, as a share of what it ran.
_PREEMPTED: Final = 0.9


class Holding:
    """How many windows an engine holds at a time, from its own metrics.

    Work beyond this queues inside the engine in arrival order, where the router can neither reorder
    nor reassign it.

    Attributes:
        most: Windows; infinity while unknown.
        ran: Highest number of windows running at once, slowly decaying.
    """

    __slots__ = ("_by_cache", "_by_waiting", "_preempted", "_waited", "most", "ran")

    def __init__(self) -> None:
        self.most = math.inf
        self._by_cache = self._by_waiting = math.inf
        self.ran = 0.0
        self._waited = 0
        self._preempted: float | None = None

    def scraped(
        self,
        running: float,
        waiting: float,
        cache_usage: float | None,
        preempted: float | None = None,
    ) -> None:
        """Update from a scrape.

        Args:
            running: Windows in service on the engine.
            waiting: Windows queued inside the engine.
            cache_usage: Share of its cache in use, 0 to 1.
            preempted: Windows that it has put back into its queue since it started.
        """
        before = self._preempted
        self._preempted = preempted
        if before is not None and preempted is not None and preempted > before:
            # It holds fewer than it runs: windows need more cache as they progress.
            self._by_cache = min(self._by_cache, _PREEMPTED * max(running, self.ran))
            self.most = max(1.0, min(self.most, self._by_cache))
            return
        self.ran = max(running, self.ran * _FORGETTING)
        if (
            cache_usage is not None
            and cache_usage >= _TELLING_USAGE
            and running >= _TELLING_WINDOWS
        ):
            held = _CACHE_MARGIN * running / cache_usage
            known = self._by_cache
            self._by_cache = held if known == math.inf else known + 0.3 * (held - known)
        if waiting >= 1.0:
            self._waited += 1
            self._by_waiting = max(1.0, self.ran)
        elif running >= _NEARLY * self._by_waiting:
            self._by_waiting *= _SLOWER if self._waited >= _SURE_AFTER else _QUICKER
        self.most = max(1.0, min(self._by_cache, self._by_waiting))


@dataclass(frozen=True, slots=True)
class LimitRules:
    """Constants of the limits. Most are ratios, so they hold for any engine speed and time scale.

    The fill is the multiple of `half_at` up to which long work may fill an engine. `first_fill` to
    `pace` were tuned with benchmarks/simulate.py, on more seeds than its tables show.

    Attributes:
        elasticity: Throughput has stopped rising where one percent more windows in service adds
            this many percent more windows per second. At 0.05, an H200 with large-v3 (peak 34,
            half at 11.6) has 220 windows in service and delivers 95 % of its peak.
        least_limit: Lowest limit, in windows: one in service and one on its way.
        first_limit: Limit of an engine that has not answered yet, in windows.
        further: The next limit as a multiple of the windows that an engine has answered with.
        probing: An engine that is always equally full may be filled to this multiple, to test the
            limit.
        back_per_window: Postponement of a segment of very long audio per window before it, as a
            multiple of the time that the whole fleet takes for a window.
        file_windows: This many windows of one file, 80 minutes, count as one batch: the queue
            postpones only the excess, and a fleet starts them all at once unless other long work
            is ahead. Trickled in, a file on one or two engines takes half as long again.
        proportion: See `WorkQueue`.
        patience: See `WorkQueue`.
        head_start: See `WorkQueue`. A lower value hurts short requests on fleets with spare
            capacity, where long work is late only for a moment: on two H200 at 59 % load, the ratio
            of their p99 to that of fewest requests is 0.50 at 1.0 and 0.62 at 0.6 (eight seeds).
        turn: See `WorkQueue`. From 0.05 to 0.15 long work gains the same, but short work loses.
        most_limit: vLLM's default number of concurrent sequences (`--max-num-seqs`).
        beyond: Limit as a multiple of the most windows seen running at once in the engine's
            metrics, if that exceeds `most_limit`.
        kept_for_short: Share of the limit reserved for short work, at least one window. Segments
            that start together finish together; until then nothing else is free for short work.
        least_fill: Lowest fill, reached on an idle fleet: four fifths of the peak.
        first_fill: Initial fill, before any load has been observed.
        quiet_share: Share of engines that are kept quiet: they get less long work, so a short
            request finds a fast engine. The same long work spread evenly slows it everywhere.
        quiet_fill: Fill from which quiet engines are filled like the others. Below it, their share
            of the fill shrinks in proportion.
        most_fill: Highest fill, reached when the load exceeds the fleet's capacity.
        wait_per_service: Target wait of long work at the first fill, as a multiple of the time that
            a window takes.
        wait_growth: Exponent with which the target wait grows with the fill: the more a further
            window costs short requests, the longer long work waits for it.
        haste: How many times faster the fill may rise than it falls.
        pace: Relative change of the fill per base latency (`half_at / peak`). At 0.005 it doubles
            in ten seconds or more on an H200 and halves in a minute. If it followed every file,
            short requests would pay for each of them.
        longest_step: Most base latencies that one adjustment may cover.
        evenness: Highest ratio of the time that long work takes on one engine to the time on the
            others. A file is done only when its last segment is.
    """

    elasticity: float = 0.05
    least_limit: float = 2.0
    first_limit: float = 8.0
    further: float = 4.0
    probing: float = 1.25
    back_per_window: float = 0.8
    file_windows: float = 160.0
    proportion: float = 0.2
    patience: float = 2.0
    head_start: float = 1.0
    turn: float = 0.05
    most_limit: float = 256.0
    beyond: float = 1.25
    kept_for_short: float = 0.1
    least_fill: float = 4.0
    first_fill: float = 9.0
    quiet_share: float = 0.375
    quiet_fill: float = 17.0
    most_fill: float = 18.0
    wait_per_service: float = 0.15
    wait_growth: float = 1.5
    haste: float = 10.0
    pace: float = 0.005
    longest_step: float = 30.0
    evenness: float = 1.25

    def limit(self, half_at: float, fixed: int | None, ran: float = 0.0) -> float:
        """Return the windows that an engine may have in service.

        Args:
            half_at: The engine's `half_at`.
            fixed: The operator's setting; None if there is none.
            ran: Most windows recently seen running at once in its metrics.
        """
        if fixed is not None:
            return float(fixed)
        knee = half_at * (1.0 - self.elasticity) / self.elasticity
        return min(max(knee, self.least_limit), self.most(ran))

    def most(self, ran: float) -> float:
        """Return the hard limit, in windows, for an engine seen running this many at once."""
        return max(self.most_limit, self.beyond * ran)

    def fill(self, fill: float, waiting: float, passed: float) -> float:
        """Return the new fill: the multiple of `half_at` up to which long work may fill engines.

        Args:
            fill: The current fill.
            waiting: Queued windows of long work, over the sum of the engines' `half_at`.
            passed: Time since the last call, in base latencies of the fleet.
        """
        # The wait over the time of a window at this fill; both are multiples of the base latency.
        wait = waiting / fill
        aim = self.wait_per_service * (fill / self.first_fill) ** self.wait_growth
        error = max(-1.0, min(self.haste, wait / aim - 1.0))
        step = self.pace * min(passed, self.longest_step) * error
        return float(min(max(fill * math.exp(step), self.least_fill), self.most_fill))

    def for_a_file(self, fill: float, pool_half_at: float) -> float:
        """Return the fill, raised if necessary so that the fleet can start a whole file at once.

        Args:
            fill: The pool's fill.
            pool_half_at: Sum of the engines' `half_at`.
        """
        if pool_half_at <= 0.0:
            return fill
        return max(fill, min(self.file_windows / pool_half_at, self.most_fill))

    def quiet(self, fill: float) -> float:
        """Return the fill of quiet engines, given that of the others."""
        return fill * min(1.0, fill / self.quiet_fill)

    def long_limit(
        self,
        half_at: float,
        peak_per_s: float,
        limit: float,
        fill: float,
        pool_half_at: float,
        pool_peak_per_s: float,
    ) -> float:
        """Return the windows in service up to which an engine accepts long work.

        Args:
            half_at: The engine's `half_at`.
            peak_per_s: The engine's peak.
            limit: The engine's limit.
            fill: The pool's fill.
            pool_half_at: Sum over the engines.
            pool_peak_per_s: Sum over the engines.
        """
        wanted = fill * half_at
        if pool_half_at > 0.0 and pool_peak_per_s > 0.0:
            # Whatever the fill, engines are never filled beyond their limits.
            filled = min(fill, limit / half_at) if half_at > 0.0 else fill
            usual_s = pool_half_at / pool_peak_per_s * (filled + 1.0)
            wanted = min(wanted, self.evenness * usual_s * peak_per_s - half_at)
        kept = max(1.0, limit * self.kept_for_short)
        return max(1.0, min(wanted, limit - kept))
