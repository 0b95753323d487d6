"""Watches engines: probes before first use and at intervals, with fresh models and metrics.

Each engine is visited separately, so none waits for another. A visit does what is due: the probe,
the scrape, or both on one connection, because connecting costs more than asking. In large fleets,
visits are spread over the interval. The fleet decides what follows from a result. A visit that
fails because of a bug in the router is counted, and the next one takes place as planned.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from vllm_router.background import Background, BackgroundLoop
from vllm_router.scheduling.engine import Engine, EngineId, EngineState, Transition
from vllm_router.scheduling.engine_states import OUT
from vllm_router.scheduling.fleet import Fleet
from vllm_router.upstream.call import (
    CallFailed,
    CallTimedOut,
)
from vllm_router.upstream.probe import Denied, EngineInquiry, Probe

log = logging.getLogger(__name__)

#: Probe interval for an engine that is out of service, so that it returns soon after it recovers.
OUT_INTERVAL_S = 1.0
#: In a fleet smaller than this, all engines are visited at once; in others, visits are spread.
SPREAD_FROM = 32
#: Longest wait for the first probe in a large fleet: an engine gets no work before it.
FIRST_PROBES_S = 1.0
#: Scrape interval for an engine that is at least half full or queues windows: work beyond what it
#: holds would queue inside it. In a large fleet, at most a hundred engines are scraped per second.
BUSY_INTERVAL_S = 1.0
BUSY_PER_S = 100.0
#: A visit also does what is due within this share of its interval.
EARLY = 0.2
#: Delay before probing an engine that has just been ejected because of many failures.
MOMENT_S = 0.05
#: Visits start at multiples of this, because waking up costs as much as a request.
TICK_S = 0.05

_NOT_PROBED = frozenset({EngineState.DRAINING, EngineState.SLEEPING})


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How engines are watched.

    Attributes:
        probe_interval_s: Time between two probes of an engine.
        stats_interval_s: Time between two scrapes of an engine.
        by_transcribing: Whether to probe by transcribing silence instead of /health.
    """

    probe_interval_s: float
    stats_interval_s: float
    by_transcribing: bool


class _Watched:
    """When an engine is visited next; infinity during the visit."""

    __slots__ = (
        "engine",
        "first_s",
        "probe_at",
        "read_at",
        "rested_until",
        "tasks",
        "timer",
        "timer_at",
    )

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.probe_at = self.read_at = math.inf
        # Until then, an engine that is not busy need not be scraped.
        self.rested_until = -math.inf
        # Time to its second probe; None for the usual interval.
        self.first_s: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf
        self.tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for task in self.tasks:
            task.cancel()


class EngineWatch:
    """Visits engines.

    Args:
        fleet: The engines, and where results are recorded.
        inquiry: Queries the engines.
        on_transitions: Called after each result with the state changes that it caused, often none.
        on_probe: Called with the engine's ID and the duration of a probe in seconds.
        background: Counts visits that fail because of a bug in the router.
        settings: Intervals.
        now: Monotonic seconds.
        rng: Spreads the visits.
    """

    def __init__(
        self,
        fleet: Fleet,
        inquiry: EngineInquiry,
        on_transitions: Callable[[Iterable[Transition]], None],
        on_probe: Callable[[EngineId, float], None],
        background: Background,
        settings: WatchSettings,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._fleet = fleet
        self._inquiry = inquiry
        self._on_transitions = on_transitions
        self._on_probe = on_probe
        self._background = background
        self._settings = settings
        self._now = now
        self._rng = rng
        self._watched: dict[EngineId, _Watched] = {}
        self._group: asyncio.TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self, group: asyncio.TaskGroup) -> None:
        """Set the task group and start watching."""
        self._group = group
        self._loop = asyncio.get_running_loop()
        self.follow()

    def follow(self) -> None:
        """Watch exactly the engines in the fleet; call this after each change."""
        if self._group is None:
            return
        present = {engine.engine_id: engine for engine in self._fleet.engines()}
        for engine_id in self._watched.keys() - present.keys():
            self._watched.pop(engine_id).stop()
        settings = self._settings
        now = self._loop.time()
        many = len(present) >= SPREAD_FROM
        for engine_id in present.keys() - self._watched.keys():
            watched = self._watched[engine_id] = _Watched(present[engine_id])
            spread = self._rng.random() if many else 0.0
            watched.probe_at = now + spread * min(FIRST_PROBES_S, settings.probe_interval_s)
            watched.read_at = now + spread * settings.stats_interval_s
            if many:
                # From the second probe on, probes and scrapes coincide, spread over the interval.
                watched.first_s = spread * settings.probe_interval_s
            self._schedule(watched)

    def stop(self) -> None:
        """Stop watching."""
        self._group = None
        for watched in self._watched.values():
            watched.stop()

    def changed(self, transition: Transition) -> None:
        """Visit an engine soon after it leaves or may re-enter service; drop one that is gone."""
        watched = self._watched.get(transition.engine_id)
        if watched is None:
            return
        if transition.after is EngineState.GONE:
            # If it is listed again, it is a different engine.
            del self._watched[transition.engine_id]
            watched.stop()
        elif transition.after in OUT and watched.probe_at < math.inf:
            moment_s = min(MOMENT_S, self._settings.probe_interval_s)
            watched.probe_at = min(watched.probe_at, self._loop.time() + moment_s)
            self._schedule(watched)

    def look(self, engine_id: EngineId) -> None:
        """Probe an engine now because it may hang."""
        watched = self._watched.get(engine_id)
        if watched is not None and watched.probe_at < math.inf:
            watched.probe_at = self._loop.time()
            self._schedule(watched)

    def _schedule(self, watched: _Watched) -> None:
        due = min(watched.probe_at, watched.read_at)
        if self._group is None or due == math.inf:
            return
        if watched.timer is not None:
            if watched.timer_at <= due:
                return
            watched.timer.cancel()
        if len(self._watched) >= SPREAD_FROM:
            due = math.ceil(due / TICK_S) * TICK_S
        watched.timer_at = due
        watched.timer = self._loop.call_at(due, self._start_visit, watched)

    def _start_visit(self, watched: _Watched) -> None:
        assert self._group is not None
        watched.timer = None
        settings = self._settings
        now = self._loop.time()
        probe_s, read_s = settings.probe_interval_s, settings.stats_interval_s
        must_probe = watched.probe_at - now <= min(EARLY * probe_s, read_s)
        must_read = watched.read_at - now <= min(EARLY * read_s, probe_s)
        if must_read and now < watched.rested_until and not self._is_busy(watched.engine):
            must_read = False
            watched.read_at = min(now + self._busy_interval_s(), watched.rested_until)
        if not must_probe and not must_read:
            self._schedule(watched)
            return
        if must_probe:
            watched.probe_at = math.inf
        if must_read:
            watched.read_at = math.inf
        factor = 0.9 + 0.2 * self._rng.random()
        if must_probe and must_read and settings.by_transcribing:
            # A busy engine takes long to transcribe, but its metrics are due now.
            visits = [
                self._visit(watched, factor, must_probe=True),
                self._visit(watched, factor, must_read=True),
            ]
        else:
            visits = [self._visit(watched, factor, must_probe=must_probe, must_read=must_read)]
        for visit in visits:
            task = self._group.create_task(visit)
            watched.tasks.add(task)
            task.add_done_callback(watched.tasks.discard)

    async def _visit(
        self,
        watched: _Watched,
        factor: float,
        *,
        must_probe: bool = False,
        must_read: bool = False,
    ) -> None:
        """Probe and scrape an engine if due, probe first; a scrape does not delay the next probe.

        Args:
            watched: The engine.
            factor: Multiplies the intervals until the next visit.
            must_probe: Whether the probe is due.
            must_read: Whether the scrape is due.
        """
        if must_probe:
            wait_s = 0.0
            try:
                await self._probe_once(watched.engine)
            except Exception as e:
                wait_s = self._background.failed(BackgroundLoop.PROBES, e)
            wait_s = max(wait_s, factor * self._probe_interval_s(watched))
            watched.probe_at = self._loop.time() + wait_s
            self._schedule(watched)
        if must_read:
            wait_s = 0.0
            try:
                await self._read_once(watched.engine)
            except Exception as e:
                wait_s = self._background.failed(BackgroundLoop.READINGS, e)
            now = self._loop.time()
            watched.rested_until = now + max(wait_s, factor * self._settings.stats_interval_s)
            watched.read_at = now + max(wait_s, factor * self._busy_interval_s())
            self._schedule(watched)

    def _busy_interval_s(self) -> float:
        most_s = max(BUSY_INTERVAL_S, len(self._watched) / BUSY_PER_S)
        return min(most_s, self._settings.stats_interval_s)

    @staticmethod
    def _is_busy(engine: Engine) -> bool:
        """Whether the engine is at least half full or queues windows."""
        stats = engine.stats
        return 2.0 * engine.load >= engine.limit or (stats is not None and stats.waiting > 0.0)

    def _probe_interval_s(self, watched: _Watched) -> float:
        interval_s = self._settings.probe_interval_s
        if watched.engine.state in OUT:
            return min(OUT_INTERVAL_S, interval_s)
        first_s, watched.first_s = watched.first_s, None
        return interval_s if first_s is None else first_s

    async def _probe_once(self, engine: Engine) -> None:
        if engine.state in _NOT_PROBED:
            return
        started = self._now()
        probe = await self._probe(engine)
        now = self._now()
        self._on_probe(engine.engine_id, now - started)
        moves = self._fleet.observe_probe(
            engine.engine_id,
            probe.error is None,
            now - started,
            probe.error,
            probe.is_timeout,
            now,
            is_denied=probe.is_denied,
        )
        self._on_transitions(moves)

    async def _probe(self, engine: Engine) -> Probe:
        url = engine.spec.url
        if engine.spec.models is None:
            try:
                models = await self._inquiry.models(url)
            except CallFailed as e:
                return Probe(
                    str(e),
                    is_timeout=isinstance(e, CallTimedOut),
                    is_denied=isinstance(e, Denied),
                )
            self._fleet.observe_models(
                engine.engine_id, models.names, self._now(), models.max_model_lens
            )
        elif engine.state is not EngineState.READY or engine.suspected_at is not None:
            # Not at each probe: it costs as much as one, and denied uploads show the same.
            probe = await self._inquiry.access(url)
            if probe.error is not None:
                return probe
        if not self._settings.by_transcribing:
            return await self._inquiry.health(url)
        if not engine.models:
            return Probe("it serves no model")
        return await self._inquiry.transcribe_silence(url, engine.models[0])

    async def _read_once(self, engine: Engine) -> None:
        try:
            stats = await self._inquiry.stats(engine.spec.url)
        except CallFailed as e:
            log.debug("engine %s: no metrics: %s", engine.engine_id, e)
            stats = None
        moves = self._fleet.observe_stats(engine.engine_id, stats, self._now())
        self._on_transitions(moves)
