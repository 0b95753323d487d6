"""Watching engines: probes before first use and then at an interval, models and load kept fresh.

One task an engine for probes and one for readings, so that no engine waits for another; their first
questions are spread over the interval's beginning only where many engines would ask at once. What
follows from an answer is the fleet's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vllm_router.app.metrics import RouterMetrics
from vllm_router.engines.engine import Engine, EngineId, EngineState, Transition
from vllm_router.outbound.call import (
    CallFailed,
    CallTimedOut,
)
from vllm_router.outbound.probe import EngineInquiry, Probe
from vllm_router.proxy.dispatch import Dispatcher

log = logging.getLogger(__name__)

#: An engine that is out is asked this often, so that it is back soon after it has recovered.
OUT_INTERVAL_S = 1.0
#: A fleet smaller than this asks all at once; a larger one's questions are spread.
SPREAD_FROM = 32

_OUT = frozenset({EngineState.DISCOVERED, EngineState.PROBING, EngineState.EJECTED})


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How engines are watched.

    Attributes:
        probe_interval_s: Between two probes of an engine.
        stats_interval_s: Between two readings of its metrics.
        by_transcribing: Probe by transcribing silence, not by /health.
    """

    probe_interval_s: float
    stats_interval_s: float
    by_transcribing: bool


class EngineWatch:
    """Keeps two tasks per engine.

    Args:
        dispatcher: Whose fleet is watched, and which is told when something changed.
        inquiry: Asks the engines.
        metrics: Counts how long probes take.
        settings: Intervals.
        now: Monotonic seconds.
        rng: Spreads the questions.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        inquiry: EngineInquiry,
        metrics: RouterMetrics,
        settings: WatchSettings,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._inquiry = inquiry
        self._metrics = metrics
        self._settings = settings
        self._now = now
        self._rng = rng
        self._tasks: dict[EngineId, list[asyncio.Task[None]]] = {}
        self._changed: dict[EngineId, asyncio.Event] = {}
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Say where tasks are started."""
        self._group = group
        self.follow()

    def follow(self) -> None:
        """Watch every engine there is and no other; to be called after each change."""
        if self._group is None:
            return
        present = {engine.engine_id for engine in self._fleet.engines()}
        for engine_id in self._tasks.keys() - present:
            for task in self._tasks.pop(engine_id):
                task.cancel()
            del self._changed[engine_id]
        many = len(present) >= SPREAD_FROM
        for engine_id in present - self._tasks.keys():
            spread = self._rng.random() if many else 0.0
            self._changed[engine_id] = asyncio.Event()
            self._tasks[engine_id] = [
                self._group.create_task(self._probe_forever(engine_id, spread)),
                self._group.create_task(self._read_forever(engine_id, spread)),
            ]

    def stop(self) -> None:
        """Stop watching."""
        self._group = None
        for tasks in self._tasks.values():
            for task in tasks:
                task.cancel()

    def changed(self, transition: Transition) -> None:
        """Look at an engine at once whose state has changed."""
        event = self._changed.get(transition.engine_id)
        if event is not None:
            event.set()

    async def _probe_forever(self, engine_id: EngineId, spread: float) -> None:
        settings = self._settings
        # Never more than a second late for the first probe: an engine takes no work before it.
        await asyncio.sleep(spread * min(1.0, settings.probe_interval_s))
        changed = self._changed[engine_id]
        while (engine := self._fleet.engine(engine_id)) is not None:
            changed.clear()
            await self._probe_once(engine)
            interval_s = settings.probe_interval_s
            if engine.state in _OUT:
                interval_s = min(OUT_INTERVAL_S, interval_s)
            interval_s *= 0.9 + 0.2 * self._rng.random()
            if engine.state in _OUT:
                await asyncio.sleep(interval_s)
                continue
            try:
                async with asyncio.timeout(interval_s):
                    await changed.wait()
            except TimeoutError:
                continue
            # A crowd of failures turned it out a moment ago; give it that moment.
            await asyncio.sleep(min(0.05, interval_s))

    async def _probe_once(self, engine: Engine) -> None:
        if engine.state in (EngineState.DRAINING, EngineState.SLEEPING):
            return
        started = self._now()
        probe = await self._probe(engine)
        now = self._now()
        self._metrics.probe_seconds.labels(engine.engine_id).observe(now - started)
        moves = self._fleet.observe_probe(
            engine.engine_id, probe.error is None, now - started, probe.error, probe.is_timeout, now
        )
        self._dispatcher.changed(moves)
        self._dispatcher.pump()

    async def _probe(self, engine: Engine) -> Probe:
        url = engine.spec.url
        if engine.spec.models is None:
            try:
                models = await self._inquiry.models(url)
            except CallFailed as e:
                return Probe(str(e), is_timeout=isinstance(e, CallTimedOut))
            self._fleet.observe_models(engine.engine_id, models, self._now())
        if not self._settings.by_transcribing:
            return await self._inquiry.health(url)
        if not engine.models:
            return Probe("it serves no model")
        return await self._inquiry.transcribe_silence(url, engine.models[0])

    async def _read_forever(self, engine_id: EngineId, spread: float) -> None:
        settings = self._settings
        await asyncio.sleep(spread * settings.stats_interval_s)
        while (engine := self._fleet.engine(engine_id)) is not None:
            try:
                stats = await self._inquiry.stats(engine.spec.url)
            except CallFailed as e:
                log.debug("engine %s: no metrics: %s", engine_id, e)
                stats = None
            moves = self._fleet.observe_stats(engine_id, stats, self._now())
            self._dispatcher.changed(moves)
            self._dispatcher.pump()
            await asyncio.sleep(settings.stats_interval_s * (0.9 + 0.2 * self._rng.random()))
