"""All engines, their pools, and their transitions through the table of states.

Every change of an engine other than a charge or its release ends in `refresh`, which recalculates
the engine's capacity and its place in its pools.
"""

import heapq
import math
from random import Random

from vllm_router.scheduling import peer_priors as peers
from vllm_router.scheduling.balance import POLICIES
from vllm_router.scheduling.changes import Appeared, Change, Listing, Withdrawn
from vllm_router.scheduling.engine import Engine, EngineId, EngineSpec, EngineState, Transition
from vllm_router.scheduling.engine_states import OUT, TRANSITIONS, EngineEvent
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.headroom import update_headroom
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.work import Ticket
from vllm_router.scheduling.work_queue import WorkQueue

__all__ = ["FleetSettings", "Registry"]


class Registry:
    """The engines and pools.

    Args:
        settings: The operator's settings.
        rng: Breaks ties.

    Attributes:
        engines: Every engine that is not gone.
        pools: Pools by model; a pool exists while it has members or queued work.
    """

    def __init__(self, settings: FleetSettings, rng: Random) -> None:
        self.settings = settings
        self.engines: dict[EngineId, Engine] = {}
        self.pools: dict[str, Pool] = {}
        self._policy = POLICIES[settings.policy]
        self._rng = rng
        self._indices = 0
        self._timers: list[tuple[float, int, Engine]] = []
        self._timer_count = 0

    def pool(self, model: str) -> Pool:
        """Return a model's pool; create it on first use."""
        pool = self.pools.get(model)
        if pool is None:
            limits = self.settings.limits
            queue: WorkQueue[Ticket] = WorkQueue(
                self.settings.ageing_s,
                proportion=limits.proportion,
                patience=limits.patience,
                head_start=limits.head_start,
                turn=limits.turn,
            )
            queue.long.file_windows = limits.file_windows
            share = limits.quiet_share if self._policy.seeks_quiet else 0.0
            pool = Pool(model, self._policy, queue, self._rng.random, share, self.settings.blame)
            pool.fill = pool.fill_told = limits.first_fill
            self.pools[model] = pool
        return pool

    def apply(self, change: Change, now: float) -> tuple[Transition, ...]:
        """Apply a change from discovery; an engine's learned state survives it."""
        match change:
            case Appeared(spec):
                return self._appeared(spec, now)
            case Withdrawn(engine_id):
                return self._withdrawn(engine_id, now)
            case Listing(specs):
                named = {spec.engine_id for spec in specs}
                gone = [engine_id for engine_id in self.engines if engine_id not in named]
                moves = [move for engine_id in gone for move in self._withdrawn(engine_id, now)]
                for spec in specs:
                    moves.extend(self._appeared(spec, now))
                return tuple(moves)

    def _appeared(self, spec: EngineSpec, now: float) -> tuple[Transition, ...]:
        engine = self.engines.get(spec.engine_id)
        if engine is None:
            self._indices += 1
            engine = Engine(spec, self._indices)
            engine.area_at = engine.out_since = now
            self.engines[spec.engine_id] = engine
            self.set_models(engine, spec.models or (), now)
            return ()
        if engine.spec != spec:
            engine.spec = spec
            if spec.models is not None:
                self.set_models(engine, spec.models, now)
        if not engine.is_withdrawn:
            return ()
        engine.is_withdrawn = False
        return self.move(engine, EngineEvent.LISTED, now)

    def _withdrawn(self, engine_id: EngineId, now: float) -> tuple[Transition, ...]:
        engine = self.engines.get(engine_id)
        if engine is None or engine.is_withdrawn:
            return ()
        engine.is_withdrawn = True
        return self.move(engine, EngineEvent.WITHDRAWN, now) + self.bury(engine, now)

    def bury(self, engine: Engine, now: float) -> tuple[Transition, ...]:
        """Remove an engine that is withdrawn and has nothing in flight."""
        if not engine.is_withdrawn or engine.in_flight:
            return ()
        moves = self.move(engine, EngineEvent.EMPTIED, now)
        if engine.state is EngineState.GONE:
            self.set_models(engine, (), now)
            del self.engines[engine.engine_id]
        return moves

    def set_models(self, engine: Engine, models: tuple[str, ...], now: float) -> None:
        """Set the models that an engine serves."""
        engine.models = models
        for pool in engine.pools:
            if pool.model not in models:
                pool.discard(engine)
                # After the removal: rounding residue of the last engine is then dropped.
                self._weigh(pool, engine, -1)
                if not pool.members and not len(pool.queue):
                    del self.pools[pool.model]
        before = {pool.model for pool in engine.pools}
        engine.pools = tuple(self.pool(model) for model in dict.fromkeys(models))
        for pool in engine.pools:
            if pool.model not in before:
                pool.add(engine)
                self._weigh(pool, engine, +1)
        self.refresh(engine, now)

    def move(
        self, engine: Engine, event: EngineEvent, now: float, why: str | None = None
    ) -> tuple[Transition, ...]:
        """Apply an event to an engine; do nothing if the table has no entry for it."""
        before = engine.state
        after = TRANSITIONS.get((before, event))
        if after is None:
            return ()
        for pool in engine.pools:
            self._weigh(pool, engine, -1)
        engine.state = after
        engine.suspected_at = None
        if before is EngineState.PROBING:
            # It was away, so a new process may have returned.
            engine.record.good()
            engine.rests, engine.rests_until = 0, -math.inf
        for pool in engine.pools:
            pool.states[before] -= 1
            pool.states[after] += 1
            self._weigh(pool, engine, +1)
        if after is EngineState.READY:
            self._enter_service(engine, now)
            self.meet(engine, now)
        elif before not in OUT:
            engine.out_since = now
        self.refresh(engine, now)
        return (Transition(engine.engine_id, before, after, why or event.value),)

    def _enter_service(self, engine: Engine, now: float) -> None:
        engine.failed_probes = engine.failed_answers = engine.slow_answers = 0
        # Only an engine that was out ramps up slowly; a starting fleet does not.
        if engine.ready_since is not None:
            engine.is_warm = False
            engine.is_on_trial = True
            engine.trial_at = now
        engine.ready_since = now

    def _weigh(self, pool: Pool, engine: Engine, sign: int) -> None:
        if engine.state is EngineState.READY:
            pool.peak_per_s += sign * engine.speed
            pool.half_at += sign * engine.half_at
        if not pool.states[EngineState.READY]:
            # Discard the rounding errors of many sums.
            pool.peak_per_s = pool.half_at = 0.0

    def relearned(self, engine: Engine, now: float, *, is_at_once: bool = False) -> None:
        """Apply a newly fitted curve to the engine and its peers.

        Args:
            engine: The engine with the new curve.
            now: Monotonic seconds.
            is_at_once: Whether to settle its pools now rather than wait for more new curves.
        """
        for pool in engine.pools:
            if peers.learned(pool, now) or is_at_once:
                for each, intercept_s, slope_s in peers.settle(pool):
                    self._expect(each, intercept_s, slope_s)
                    if each is not engine:
                        self.refresh(each, now)
        self.refresh(engine, now)

    def _expect(self, engine: Engine, intercept_s: float, slope_s: float) -> None:
        for pool in engine.pools:
            self._weigh(pool, engine, -1)
        engine.intercept_s, engine.slope_s = intercept_s, slope_s
        for pool in engine.pools:
            self._weigh(pool, engine, +1)

    def meet(self, engine: Engine, now: float) -> None:
        """Estimate an engine without responses from its peers."""
        if not engine.curve.seen:
            for pool in engine.pools:
                for each, intercept_s, slope_s in peers.settle(pool):
                    if each is engine:
                        self._expect(each, intercept_s, slope_s)

    def refresh(self, engine: Engine, now: float) -> None:
        """Recalculate an engine's current capacity and its place in its pools."""
        engine.next_window_s = engine.intercept_s + engine.slope_s * (engine.load + 1.0)
        is_open = engine.held_for is None and self._is_open(engine, now)
        update_headroom(engine, self.settings, self._warmth(engine, now) if is_open else None)
        for pool in engine.pools:
            pool.place(engine)

    def _warmth(self, engine: Engine, now: float) -> float:
        if engine.is_warm or engine.ready_since is None:
            return 1.0
        health = self.settings.health
        warmth = health.warmth(now - engine.ready_since)
        engine.is_warm = warmth >= 1.0
        if not engine.is_warm:
            self.wake_at(now + health.slow_start_s / 20.0, engine)
        return warmth

    def _is_open(self, engine: Engine, now: float) -> bool:
        # Whatever has happened in the meantime, it is not tried before its rest ends.
        trial_at = max(engine.trial_at, engine.rests_until)
        if engine.is_on_trial and now < trial_at:
            self.wake_at(trial_at, engine)
            return False
        if engine.state is EngineState.READY:
            return engine.suspected_at is None or self._is_needed(engine, now)
        # After its ejection and a passed probe, an engine is tried with a live request.
        probe = engine.last_probe
        if engine.state is not EngineState.EJECTED or probe is None or not probe.is_ok:
            return False
        if probe.at <= engine.out_since:
            return False
        if now < engine.ejected_until:
            self.wake_at(engine.ejected_until, engine)
            return False
        engine.is_on_trial = True
        return True

    def _is_needed(self, engine: Engine, now: float) -> bool:
        """Whether a suspected engine must take new work because no other engine can.

        Its probe is under way. A live engine passes it within milliseconds; work given to a hung
        engine until the probe fails would only have to be moved.
        """
        for pool in engine.pools:
            if not any(
                other.state is EngineState.READY and other.suspected_at is None
                for other in pool.members.values()
            ):
                return True
        self.wake_at(now + self.settings.suspicion.recheck_s, engine)
        return False

    def wake_at(self, at: float, engine: Engine) -> None:
        """Schedule a refresh of an engine."""
        self._timer_count += 1
        heapq.heappush(self._timers, (at, self._timer_count, engine))

    def next_timer(self) -> float | None:
        """Return when the next engine must be refreshed; None if there is none."""
        return self._timers[0][0] if self._timers else None

    def run_timers(self, now: float) -> None:
        """Refresh the engines that are due."""
        due = set()
        while self._timers and self._timers[0][0] <= now:
            due.add(heapq.heappop(self._timers)[2])
        for engine in due:
            self.refresh(engine, now)
