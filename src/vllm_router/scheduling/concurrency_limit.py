"""How many windows an engine may have in service, and how many of those may be long work.

Two numbers per engine. The limit is where its throughput stops rising, by its learned curve: short
work may go up to it. Long work may go up to a lower one, and how much lower moves with the load:
while little long work waits, engines are left quick; when much waits, they are filled to where they
are most productive.

Refuses to know: queues and engines; only a curve and a few sums.
"""

import math
from dataclasses import dataclass
from typing import Final

# What the cache would hold is known from such a usage on: of a few percent, rounding is a part.
_TELLING_USAGE: Final = 0.1
_TELLING_WINDOWS: Final = 4.0
# Windows differ in what they take of the cache.
_CACHE_MARGIN: Final = 0.97
# The most seen running is forgotten by this factor with each scrape.
_FORGETTING: Final = 0.98
# How much further an engine is filled that is full and lets nothing wait: quickly until windows
# have waited in several scrapes, for a burst that has just come waits a moment anywhere.
_QUICKER: Final = 2.0
_SLOWER: Final = 1.03
_SURE_AFTER: Final = 2
_NEARLY: Final = 0.9
# What an engine holds that had to put windows back, of what it ran.
_PREEMPTED: Final = 0.9


class Holding:
    """How many windows an engine holds at a time, as its own metrics tell.

    What it is given beyond waits inside it, first come, first served, where no order can be kept
    and no other engine can take it.

    Attributes:
        most: Windows; infinity while nothing tells.
        ran: The most windows that ran at once, slowly forgotten.
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
        """Take in what the engine says of itself.

        Args:
            running: Windows that it serves.
            waiting: Windows that wait inside it.
            cache_usage: The part of its cache that is in use.
            preempted: Windows that it has put back to wait since it began.
        """
        before = self._preempted
        self._preempted = preempted
        if before is not None and preempted is not None and preempted > before:
            # It holds fewer than it runs: windows need more of the cache as they go on.
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
    """The constants, each a ratio, so that they hold for any speed of engine and any time scale.

    The fill is up to how many times `half_at` long work may fill an engine. `first_fill` to `pace`
    were chosen with benchmarks/simulate.py, on seeds that its tables only partly show.

    Attributes:
        elasticity: The throughput has stopped rising where one percent more windows in service
            bring this many percent more windows per second. At 0.05 an H200 with large-v3 (peak 34,
            half at 11.6) has 220 windows in service and gives 95 % of all it could.
        least_limit: Windows that any engine may have: one being answered, one on its way.
        first_limit: Windows that an engine may have that has not answered yet.
        further: How many times as many as it has answered with an engine may have next.
        probing: An engine that is always as full may be filled so many times as far, to see what
            comes of it.
        back_per_window: By how many times the time that the whole fleet takes for a window each
            window before it puts a piece of a very long audio back in the queue.
        file_windows: So many windows of a single file, an hour and a bit, are served as one: the
            queue puts back only what lies beyond, and a fleet takes them at once unless other long
            work is before them. Trickled in, a file on one or two engines takes half as long again.
        proportion: See `WorkQueue`.
        patience: See `WorkQueue`.
        head_start: See `WorkQueue`. Lower, and short requests lose on fleets with room to spare,
            where long work is late only for a moment: on two H200 at 59 % load their p99 over that
            of fewest requests is 0.50 at 1.0 and 0.62 at 0.6 (eight seeds).
        turn: See `WorkQueue`. From 0.05 to 0.15 long work gains the same; short work loses by it.
        most_limit: vLLM takes 256 sequences at a time by default (`--max-num-seqs`).
        beyond: An engine may have so many times what its metrics have shown it to run at once, if
            that is more than `most_limit`.
        kept_for_short: Part of the limit that long work never takes, and one window at least.
            Pieces that began together end together; until then only this is free for short work.
        least_fill: Where the fill ends on an idle fleet: four fifths of the peak.
        first_fill: Where it begins before any load has been seen.
        quiet_share: Part of the engines that are kept quiet: long work fills them less, so that a
            short request finds one on which it is done soon. Spread evenly, the same long work
            makes it as slow everywhere.
        quiet_fill: The fill from which on those are filled like all. Below it they get so much less
            of it as the fill is lower.
        most_fill: Where it ends under more load than the fleet can carry.
        wait_per_service: The wait of long work that is aimed at, over the time a window takes, at
            the first fill.
        wait_growth: With which power of the fill that wait grows: the more a further window would
            cost short requests, the longer long work waits before it is allowed one.
        haste: How much faster the fill may rise than it falls.
        pace: How fast the fill moves, relative, per base latency (`half_at / peak`). At 0.005 it
            doubles in ten seconds or more on an H200, and halves in a minute: moving with each
            file that comes would make short requests pay for all of them.
        longest_step: Base latencies that a single move may stand for.
        evenness: Long work on one engine may take up to so many times what it takes on the others;
            a file is done only when its last piece is.
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
            half_at: The engine's.
            fixed: The operator's word; None: none.
            ran: The most windows that its metrics have shown it to run at once of late.
        """
        if fixed is not None:
            return float(fixed)
        knee = half_at * (1.0 - self.elasticity) / self.elasticity
        return min(max(knee, self.least_limit), self.most(ran))

    def most(self, ran: float) -> float:
        """Return the windows beyond which no engine is filled that has shown to run so many."""
        return max(self.most_limit, self.beyond * ran)

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

    def for_a_file(self, fill: float, pool_half_at: float) -> float:
        """Return the fill, or the one at which a fleet takes a single file at once if that is more.

        Args:
            fill: The pool's.
            pool_half_at: The sum over the engines.
        """
        if pool_half_at <= 0.0:
            return fill
        return max(fill, min(self.file_windows / pool_half_at, self.most_fill))

    def quiet(self, fill: float) -> float:
        """Return the fill of quiet engines while the others have the given one."""
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
        """Return the windows in service up to which an engine takes long work.

        Args:
            half_at: The engine's.
            peak_per_s: The engine's.
            limit: The engine's.
            fill: The pool's.
            pool_half_at: The sum over the engines.
            pool_peak_per_s: The sum over the engines.
        """
        wanted = fill * half_at
        if pool_half_at > 0.0 and pool_peak_per_s > 0.0:
            # Engines are not filled beyond their limits, whatever the fill.
            filled = min(fill, limit / half_at) if half_at > 0.0 else fill
            usual_s = pool_half_at / pool_peak_per_s * (filled + 1.0)
            wanted = min(wanted, self.evenness * usual_s * peak_per_s - half_at)
        kept = max(1.0, limit * self.kept_for_short)
        return max(1.0, min(wanted, limit - kept))
