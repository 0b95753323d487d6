"""Count events of engines and their work, and log engines' state transitions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from vllm_router.observability.counters import CounterValue, HistogramValue
from vllm_router.observability.metrics import RouterMetrics
from vllm_router.observability.stats_table import RequestStats
from vllm_router.scheduling.engine import EngineId, EngineState, Transition
from vllm_router.scheduling.work import Charge, OutcomeKind, Ticket, Urgency

log = logging.getLogger("vllm_router")

#: What an engine that was ready becomes when its answers or its probes fail.
_TAKEN_OUT: Final = frozenset({EngineState.EJECTED, EngineState.PROBING})


class FleetObserver:
    """Counts events of engines and their work, and logs engines' state transitions.

    Args:
        metrics: Counters and histograms.
        stats: Recent answers of each engine.
        models: Returns the models that an engine serves.
        on_change: Called for each transition, so that the engine can be probed at once.
        on_suspicion: Called for an engine that may hang, for the same reason.
    """

    def __init__(
        self,
        metrics: RouterMetrics,
        stats: RequestStats,
        models: Callable[[EngineId], Iterable[str]],
        on_change: Callable[[Transition], None],
        on_suspicion: Callable[[EngineId], None],
    ) -> None:
        self._metrics = metrics
        self._stats = stats
        self._models = models
        self._on_change = on_change
        self._on_suspicion = on_suspicion
        self._attempts: dict[tuple[EngineId, OutcomeKind], CounterValue] = {}
        self._waits: dict[tuple[str, Urgency], HistogramValue] = {}
        self._done: dict[EngineId, tuple[CounterValue, CounterValue]] = {}

    def attempted(self, charge: Charge, outcome: OutcomeKind, seconds: float) -> None:
        """Count an attempt on an engine that has ended."""
        engine_id = charge.engine_id
        counter = self._attempts.get((engine_id, outcome))
        if counter is None:
            counter = self._metrics.attempts.labels(engine_id, outcome.value)
            self._attempts[engine_id, outcome] = counter
        counter.inc()
        if outcome is OutcomeKind.OK:
            done = self._done.get(engine_id)
            if done is None:
                metrics = self._metrics
                done = self._done[engine_id] = (
                    metrics.engine_audio_seconds.labels(engine_id),
                    metrics.engine_windows.labels(engine_id),
                )
            audio, windows = done
            audio_s = charge.audio_s if charge.measured_s is None else charge.measured_s
            audio.inc(audio_s)
            windows.inc(charge.windows)
            self._stats.note(engine_id, seconds, audio_s)

    def waited(self, ticket: Ticket, seconds: float) -> None:
        """Record a ticket's wait in the queue."""
        key = (ticket.model, ticket.urgency)
        wait = self._waits.get(key)
        if wait is None:
            wait = self._metrics.queue_wait_seconds.labels(ticket.model, ticket.urgency.value)
            self._waits[key] = wait
        wait.observe(seconds)

    def repeated(self, ticket: Ticket) -> None:
        """Count a retry on another engine."""
        self._metrics.retries.inc()

    def hedged(self, *, is_won: bool) -> None:
        """Count a hedged call, by the engine that won."""
        self._metrics.hedges.labels("second" if is_won else "first").inc()

    def suspected(self, engine_id: EngineId) -> None:
        """Report that a call to an engine is overdue."""
        self._on_suspicion(engine_id)

    def changed(self, transition: Transition) -> None:
        """Log and count a state transition."""
        log.warning(
            "engine %s: %s -> %s (%s)",
            transition.engine_id,
            transition.before.value,
            transition.after.value,
            transition.why,
        )
        engine_id, after = transition.engine_id, transition.after
        if after is EngineState.READY:
            self._metrics.expect(engine_id, self._models(engine_id))
        elif transition.before is EngineState.READY and after in _TAKEN_OUT:
            self._metrics.ejections.labels(engine_id).inc()
        elif after is EngineState.GONE:
            self._forget(engine_id)
        self._on_change(transition)

    def _forget(self, engine_id: EngineId) -> None:
        self._done.pop(engine_id, None)
        for key in [key for key in self._attempts if key[0] == engine_id]:
            del self._attempts[key]
        self._metrics.forget(engine_id)
