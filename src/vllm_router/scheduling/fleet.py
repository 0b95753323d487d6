"""The fleet decides which engine gets which work, and when.

It does no I/O: every method takes `now` in monotonic seconds and none awaits, so no lock is needed,
and a test or a simulation may run it on its own clock. `assign` returns the decisions. The caller
runs it after `submit`, `finish` and every observation, and at `next_wakeup`.

Bounds: submit, one assignment, withdraw and finish take O(log n) in engines and queued tickets.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

from vllm_router.scheduling import charges as load
from vllm_router.scheduling import other_routers as others
from vllm_router.scheduling.admission import admit
from vllm_router.scheduling.changes import Change
from vllm_router.scheduling.dispatcher import Dispatcher
from vllm_router.scheduling.engine import Engine, EngineId, EngineState, ProbeResult, Transition
from vllm_router.scheduling.engine_metrics import EngineStats
from vllm_router.scheduling.engine_states import EngineEvent
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.heartbeat import Heartbeat
from vllm_router.scheduling.hedge import Hedge
from vllm_router.scheduling.outlier_detection import OutlierDetection, is_failure
from vllm_router.scheduling.pool import Pool, may_serve
from vllm_router.scheduling.registry import Registry
from vllm_router.scheduling.retry import RetryBudget
from vllm_router.scheduling.service_curve import PRIOR_HALF_AT, PRIOR_PEAK_PER_S
from vllm_router.scheduling.work import (
    Assignment,
    Charge,
    Death,
    Outcome,
    OutcomeKind,
    Ticket,
    Urgency,
)

# With other outcomes the work goes to a further engine, or is already on it: a black hole drains no
# queue.
_DONE: Final = frozenset((OutcomeKind.OK, OutcomeKind.CLIENT_FAULT, OutcomeKind.CLIENT_LEFT))
#: Observations older than this may no longer hold.
_STALE_S: Final = 10.0
#: Responses after which an engine's time is known; the first may be late because it was cold.
_TOLD: Final = 3
#: In a large fleet a probe ends every few milliseconds, but the median changes slowly.
_USUAL_S: Final = 1.0


def _is_stale(engine: Engine, now: float) -> bool:
    return engine.last_ok_at is None or now - engine.last_ok_at >= _STALE_S


def _others(engine: Engine) -> Iterator[Engine]:
    """Return the other engines for the models that an engine serves."""
    return (each for pool in engine.pools for each in pool.members.values() if each is not engine)


def _has_answered_since(engine: Engine, charge: Charge) -> bool:
    """Whether an engine has answered well since a call to another engine began."""
    return engine.last_ok_at is not None and engine.last_ok_at >= charge.started_at


def _prior_s(engine: Engine) -> float:
    """Return the time of a window assumed before any engine has answered, in seconds."""
    return (PRIOR_HALF_AT + 1.0) / PRIOR_PEAK_PER_S / engine.spec.weight


@dataclass(frozen=True, slots=True)
class QueueView:
    """Queued work for a model, of one urgency.

    Attributes:
        model: The model.
        urgency: Short requests or segments of long ones.
        count: Number of tickets.
        audio_s: Their seconds of audio.
        oldest_s: Age of the oldest ticket, in seconds.
    """

    model: str
    urgency: Urgency
    count: int
    audio_s: float
    oldest_s: float


class Fleet:
    """All engines, all queued work, and the rules that connect them.

    Args:
        settings: The operator's settings.
        rng: Source of randomness for ties and draws.

    Raises:
        KeyError: The policy's name is not in the table.
    """

    def __init__(self, settings: FleetSettings | None = None, rng: Random | None = None) -> None:
        self.settings = settings or FleetSettings()
        self._registry = Registry(self.settings, rng or Random())  # noqa: S311 - ties, not secrets
        self._budget = RetryBudget(self.settings.retry_share, self.settings.retry_floor_per_s)
        # Separate, so that a client sending broken files cannot use up other clients' retries.
        self._second_opinions = RetryBudget(0.0, self.settings.second_opinions_per_s)
        self._judge = OutlierDetection(self._registry, self._budget)
        self._dispatcher = Dispatcher(self._registry)
        self._heartbeat = Heartbeat()
        #: Engines that refused uploads that others served; dropped once they withhold nothing.
        self._unfit: dict[EngineId, Engine] = {}
        after = self.settings.hedge_after_s
        self._hedge = (
            None
            if after is None
            else Hedge(None if after == "auto" else after, self.settings.hedge_share)
        )

    def __repr__(self) -> str:
        return f"<Fleet {len(self._registry.engines)} engines, {self.waiting()} waiting>"

    # Views.

    def engine(self, engine_id: EngineId) -> Engine | None:
        """Return an engine by its ID, or None."""
        return self._registry.engines.get(engine_id)

    def engines(self) -> Iterable[Engine]:
        """Return all engines that are not gone."""
        return self._registry.engines.values()

    def models(self) -> tuple[str, ...]:
        """Return the models that any engine serves, in any state but gone."""
        return tuple(model for model, pool in self._registry.pools.items() if pool.members)

    def is_ready(self, model: str | None = None) -> bool:
        """Whether an engine is ready for a model, or for any model if none is given."""
        pools = self._registry.pools
        if model is not None:
            return model in pools and pools[model].states[EngineState.READY] > 0
        return any(pool.states[EngineState.READY] for pool in pools.values())

    def is_ready_for(self, ticket: Ticket) -> bool:
        """Whether an engine is ready that has not yet failed on the work."""
        pool = self._registry.pools.get(ticket.model)
        return pool is not None and any(
            may_serve(engine, ticket) for engine in pool.untried(ticket)
        )

    def members(self, model: str) -> Iterable[Engine]:
        """Return the engines that serve a model, in any state but gone."""
        pool = self._registry.pools.get(model)
        return () if pool is None else pool.members.values()

    def readiness(self, model: str) -> tuple[int, float]:
        """Return how many engines are ready for a model, and when one last became ready."""
        count, at = 0, -math.inf
        for engine in self.members(model):
            if engine.state is EngineState.READY and engine.ready_since is not None:
                count += 1
                at = max(at, engine.ready_since)
        return count, at

    def may_recover_for(self, ticket: Ticket, now: float) -> bool:
        """Whether an engine is out that may recover soon and has not yet failed on the work."""
        pool = self._registry.pools.get(ticket.model)
        return pool is not None and any(
            self._judge.may_return(engine, now) for engine in pool.untried(ticket)
        )

    def waiting(self, model: str | None = None) -> int:
        """Return how many tickets are queued, for a model or in total."""
        pools = self._registry.pools
        if model is not None:
            return len(pools[model].queue) if model in pools else 0
        return sum(len(pool.queue) for pool in pools.values())

    def queues(self, now: float | None = None) -> Iterator[QueueView]:
        """Yield the queued work by model and urgency; without `now`, the oldest age is 0."""
        for model, pool in self._registry.pools.items():
            for urgency, lane in (
                (Urgency.SHORT, pool.queue.short),
                (Urgency.LONG, pool.queue.long),
            ):
                head = lane.head()
                age_s = 0.0 if head is None or now is None else max(0.0, now - head.enqueued_at)
                yield QueueView(model, urgency, lane.count, lane.audio_s, age_s)

    # Observations.

    def beat(self, now: float) -> None:
        """Record that the event loop runs; call this every `heartbeat.BEAT_S` seconds.

        If beats were missing during a call or a probe, the router itself stalled. The call's time
        then neither counts against the engine nor is learned.
        """
        self._heartbeat.beat(now)

    def apply(self, change: Change, now: float) -> tuple[Transition, ...]:
        """Apply a change from discovery."""
        return self._registry.apply(change, now)

    def observe_models(
        self,
        engine_id: EngineId,
        models: tuple[str, ...],
        now: float,
        max_model_lens: dict[str, int] | None = None,
    ) -> None:
        """Record the models that an engine says it serves; unknown IDs are ignored."""
        engine = self.engine(engine_id)
        if engine is None:
            return
        engine.max_model_lens = max_model_lens or {}
        if not models:
            # It may pass its probes, but still gets no work.
            engine.last_error = "its /v1/models lists no model"
        models = self._judge.without_withheld(engine, models, now)
        if engine.models != models:
            self._registry.set_models(engine, models, now)

    def observe_stats(
        self, engine_id: EngineId, stats: EngineStats | None, now: float
    ) -> tuple[Transition, ...]:
        """Record a scrape; None if it failed and other routers' load there is unknown."""
        engine = self.engine(engine_id)
        if engine is None:
            return ()
        engine.stats = stats
        if stats is None:
            others.forget(engine)
        else:
            engine.holding.scraped(stats.running, stats.waiting, stats.cache_usage, stats.preempted)
            others.scraped(engine, stats.running + stats.waiting)
        is_sleeping = stats is not None and stats.is_sleeping
        moves: tuple[Transition, ...] = ()
        if is_sleeping and engine.state is not EngineState.SLEEPING:
            moves = self._registry.move(engine, EngineEvent.FELL_ASLEEP, now)
        elif stats is not None and not is_sleeping and engine.state is EngineState.SLEEPING:
            moves = self._registry.move(engine, EngineEvent.WOKE, now)
        self._registry.refresh(engine, now)
        return moves

    def observe_probe(
        self,
        engine_id: EngineId,
        ok: bool,
        seconds: float,
        error: str | None,
        is_timeout: bool,
        now: float,
        *,
        is_denied: bool = False,
    ) -> tuple[Transition, ...]:
        """Record the result of a probe that has just ended."""
        engine = self.engine(engine_id)
        if engine is None:
            return ()
        if engine.withheld:
            self._judge.give_back_models(engine, now)
        if is_timeout and not self._heartbeat.ran_since(now - seconds, now):
            return ()
        result = ProbeResult(ok, seconds, now, error, is_timeout, is_denied)
        moves = self._judge.probed(engine, result)
        if ok:
            self._doubt(engine, now)
        return moves

    def _doubt(self, engine: Engine, now: float) -> None:
        """Let an idle engine that once appeared slow be measured again.

        A slow engine gets little work, and only work shows that it is no longer slow. After a while
        without work, it is assumed to be as fast as its peers have recently been. Its next response
        shows its real speed.
        """
        if engine.in_flight or not engine.curve.answers or not _is_stale(engine, now):
            return
        others_s = [self._usual_s(pool, now) for pool in engine.pools]
        usual_s = min((each for each in others_s if each is not None), default=None)
        own_s = engine.curve.window_s(1.0)
        if usual_s is not None and own_s > usual_s:
            engine.curve.rescale(usual_s / own_s)
            # Deferred: when the load of a large fleet ends, this applies to hundreds of engines.
            self._registry.relearned(engine, now)

    def _usual_s(self, pool: Pool, now: float) -> float | None:
        """Return the median window time of the engines that have recently answered, or None."""
        if now - pool.usual_at >= _USUAL_S:
            fresh = [
                engine.curve.window_s(1.0)
                for engine in pool.members.values()
                if engine.state is EngineState.READY
                and engine.curve.seen >= _TOLD
                and not _is_stale(engine, now)
            ]
            pool.usual_s = median(fresh) if fresh else None
            pool.usual_at = now
        return pool.usual_s

    # Work.

    def admit(self, ticket: Ticket, now: float) -> None:
        """Check whether a ticket may join the queue, without queueing it.

        Long audio in segments is checked once, with a ticket of its full length. Its segments are
        then submitted with `is_admitted`.

        Raises:
            QueueFull: The queue's audio or expected wait exceeds its limit.
        """
        admit(self._registry.pool(ticket.model), ticket, self.settings, now)

    def submit(self, ticket: Ticket, now: float) -> None:
        """Queue a ticket.

        Raises:
            QueueFull: See `admit`; never for a ticket that was already admitted.
        """
        pool = self._registry.pool(ticket.model)
        self._let_in(pool, ticket, now)
        self._dispatcher.add(pool, ticket, now)

    def _let_in(self, pool: Pool, ticket: Ticket, now: float) -> None:
        if not ticket.is_admitted:
            admit(pool, ticket, self.settings, now)
            ticket.is_admitted = True
            if self.settings.max_queue_wait_s is not None:
                ticket.expires_at = now + self.settings.max_queue_wait_s
            self._budget.earn(now)
            if ticket.kind and self._unfit:
                self._keep_from_unfit(pool, ticket, now)

    def _keep_from_unfit(self, pool: Pool, ticket: Ticket, now: float) -> None:
        """Exclude the engines that refuse such uploads, if another engine is ready.

        If none is, their refusal shows that the router has to convert the upload.
        """
        unfit = set()
        for engine in list(self._unfit.values()):
            if not engine.unfit or engine.state is EngineState.GONE:
                del self._unfit[engine.engine_id]
            elif engine.unfit.withholds(ticket.kind, now, engine.ready_since):
                unfit.add(engine.engine_id)
        unfit -= ticket.excluded
        if unfit:
            ticket.excluded |= unfit
            if not any(may_serve(engine, ticket) for engine in pool.untried(ticket)):
                ticket.excluded -= unfit

    def take(self, ticket: Ticket, now: float) -> Charge | None:
        """Charge an engine at once if nothing is queued and there is room; None means `submit`.

        Equivalent to `submit` and `assign` in half the time; nearly every upload takes this path.
        """
        pool = self._registry.pools.get(ticket.model)
        if pool is None or len(pool.queue):
            return None
        self._let_in(pool, ticket, now)
        return self._dispatcher.take(pool, ticket, now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Remove a ticket from the queue at once; do nothing if it is not queued."""
        self._dispatcher.withdraw(ticket, now)

    def assign(self, now: float) -> list[Assignment]:
        """Return every decision that is possible now."""
        return self._dispatcher.assign(now)

    def next_wakeup(self, now: float) -> float | None:
        """Return when to call `assign` if nothing else happens; None if there is no need."""
        return self._dispatcher.next_wakeup(now)

    def finish(self, charge: Charge, outcome: Outcome, now: float) -> tuple[Transition, ...]:
        """Release a charge and rate its engine by the outcome; a second call does nothing."""
        engine = charge.engine
        if engine is None:
            return ()
        charge.engine = None
        kind = outcome.kind
        windows = load.release(charge, engine, now, is_done=kind in _DONE)
        moves: tuple[Transition, ...] = ()
        if not self._heartbeat.ran_since(charge.started_at, now):
            # The time reflects the router's stall, not the engine.
            if kind is OutcomeKind.OK:
                moves = self._judge.answered_well(engine, charge, now)
                kind = OutcomeKind.CANCELLED
            elif kind is OutcomeKind.TIMEOUT or kind is OutcomeKind.OVERTAKEN:
                kind = OutcomeKind.CANCELLED
        if kind is OutcomeKind.OK:
            if charge.ticket.kind:
                engine.unfit.served(charge.ticket.kind)
            seconds = now - charge.started_at
            if self._hedge is not None and charge.ticket.urgency is Urgency.SHORT:
                self._hedge.answered(seconds)
            if self._judge.is_far_off(engine, windows + engine.elsewhere, seconds):
                moves = self._judge.answered_late(engine, charge, seconds, now)
                self._relearn(engine, windows + engine.elsewhere, seconds, now)
            else:
                moves = self._judge.answered_well(engine, charge, now)
                self._learn(engine, windows + engine.elsewhere, seconds, now)
        elif kind is OutcomeKind.CLIENT_FAULT:
            self._judge.refused_rightly(engine)
        elif kind is OutcomeKind.BUSY:
            self._judge.asked_for_rest(engine, charge, outcome.rest_s, now)
        elif kind is OutcomeKind.OVERTAKEN:
            seconds = now - charge.started_at
            moves = self._judge.overtaken(engine, charge, seconds, now)
            if self.settings.suspicion.is_known(engine.curve.answers):
                # It would have taken at least this long. Otherwise a slow engine would stay
                # suspect forever, because none of its responses would ever be seen.
                self._learn(engine, windows + engine.elsewhere, seconds, now)
        elif is_failure(kind):
            moves = self._judge.answered_badly(
                engine, charge.started_at, outcome, now, by_suspect=charge.is_suspect
            )
        if engine.is_withdrawn:
            moves += self._registry.bury(engine, now)
        if engine.is_on_trial or engine.held_for is not None:
            self._registry.refresh(engine, now)
        else:
            for pool in engine.pools:
                pool.place(engine)
        return moves

    def _learn(self, engine: Engine, windows: float, seconds: float, now: float) -> None:
        curve = engine.curve
        curve.is_count_rough = engine.elsewhere > 0.0
        if curve.learn(windows, seconds, now):
            self._registry.relearned(engine, now)

    def _relearn(self, engine: Engine, windows: float, seconds: float, now: float) -> None:
        """Learn that an engine is slow only after as many late responses as eject it.

        Learned one by one, they would become its usual time before it is ejected.
        """
        if engine.slow_answers < self.settings.health.outlier_answers:
            return
        engine.slow_answers = 0
        engine.curve.rescale(seconds / engine.curve.window_s(windows))
        self._registry.relearned(engine, now, is_at_once=True)

    def died(self, charge: Charge, now: float, others: Iterable[Charge] = ()) -> bool:
        """Record that an engine crashed during a call, whose charge may already be released.

        Args:
            charge: The charge.
            now: Monotonic seconds.
            others: Other charges for the same audio.

        Returns:
            Whether the upload may have caused the crash. It has not if the engine had cut off
            several calls in a row before and still accepts calls.
        """
        engine = self.engine(charge.engine_id)
        if engine is not None and not engine.record.is_death(charge.started_at, now):
            return False
        is_shared = engine is not None and engine.crowded_at >= charge.started_at
        charge.ticket.deaths.append(Death(charge.engine_id, now, is_shared))
        for other in others:
            load.suspect(other, now)
        self.suspect(charge, now)
        return True

    def absolve(self, deaths: Iterable[Death], now: float) -> None:
        """Record that an upload crashed engines, whose ejections it must not extend."""
        for death in deaths:
            engine = self.engine(death.engine_id)
            if engine is not None:
                self._judge.absolve(engine, now)

    def is_evidence(self, charge: Charge) -> bool:
        """Whether a failure of this call is evidence about the work; ask before `finish`.

        An engine that fails on everything is not evidence.
        """
        engine = charge.engine
        return engine is None or (not engine.is_on_trial and not engine.record.count)

    def refused(self, charge: Charge, status: int, now: float) -> tuple[int, int]:
        """Record that an engine has refused an upload, before the charge is released.

        Returns:
            Its votes against the upload, 0 or 1, and the votes needed to refuse the client.
        """
        engine = charge.engine
        if engine is None:
            return 0, self.settings.blame.votes
        pool = self._registry.pool(charge.ticket.model)
        return self._judge.refused(engine, pool, status, now)

    def agreed(self, model: str, status: int, engine_ids: Iterable[EngineId], now: float) -> None:
        """Record that engines have refused an upload with good reason."""
        engines = [engine for each in engine_ids if (engine := self.engine(each)) is not None]
        self._judge.agreed(engines, self._registry.pool(model), status, now)

    def refuted(
        self, engine_id: EngineId, ticket: Ticket, status: int, now: float, *, lacks_model: bool
    ) -> bool:
        """Record that another engine has served what this engine refused.

        Returns:
            Whether to blame the engine. Not if it lacks the model or refuses only this kind of
            upload: then it gets no more of that kind.
        """
        engine = self.engine(engine_id)
        if engine is None:
            return False
        pool = self._registry.pool(ticket.model)
        self._judge.refuted(engine, pool, status, now, lacks_model=lacks_model)
        if lacks_model:
            return False
        if not ticket.kind:
            return True
        self._unfit[engine_id] = engine
        if not engine.unfit.refuted(ticket.kind, now, engine.last_ok_at):
            return True
        engine.last_error = f"it refuses {ticket.kind} uploads, which other engines serve"
        return False

    def blame(
        self, engine_id: EngineId, started_at: float, outcome: Outcome, now: float
    ) -> tuple[Transition, ...]:
        """Count a failure that was undecided when its charge was released.

        Args:
            engine_id: The engine.
            started_at: When the call began, monotonic seconds. On slow engines the cause is known
                only long afterwards, and the engine may have been ejected meanwhile.
            outcome: The outcome to count.
            now: Monotonic seconds.
        """
        engine = self.engine(engine_id)
        if engine is None:
            return ()
        return self._judge.answered_badly(engine, started_at, outcome, now)

    def has_witness(self, ticket: Ticket) -> bool:
        """Whether an engine that serves well could be asked about a refused upload."""
        pool = self._registry.pools.get(ticket.model)
        return pool is not None and any(
            self._judge.is_witness(engine) for engine in pool.untried(ticket)
        )

    def may_ask_second(self, now: float) -> bool:
        """Spend one second opinion on a refused upload; return whether the budget allows it."""
        return self._second_opinions.spend(now)

    def rest_s(self, ticket: Ticket, now: float) -> float | None:
        """Return in how many seconds an engine may be asked again; None if one may be asked now.

        Not None only if every engine that could be asked has asked for a rest.
        """
        pool = self._registry.pools.get(ticket.model)
        soonest = math.inf
        if pool is not None:
            for engine in pool.untried(ticket):
                if engine.state is EngineState.READY:
                    if engine.rests_until <= now:
                        return None
                    soonest = min(soonest, engine.rests_until)
        return None if soonest == math.inf else soonest - now

    def overdue_at(self, charge: Charge, now: float) -> float:
        """Return when an unanswered call is overdue, by its engine's current speed and load.

        Monotonic seconds; in the past if it is overdue. Ask again then: the load may have grown.
        """
        engine = charge.engine
        if engine is None:
            return math.inf
        rules, curve = self.settings.suspicion, engine.curve
        # Time in which the router itself stalled does not count against the engine.
        started_at = max(charge.started_at, self._heartbeat.stood_still_until)
        lasted_s = now - started_at
        usual_s = curve.window_s(max(engine.load, load.mean(charge, engine, now)))
        is_known = rules.is_known(curve.answers)
        if not is_known:
            # Assumptions about an engine are relative to its peers, once these are known.
            own_s = curve.window_s(1.0)
            if not curve.seen:
                usual_s *= _prior_s(engine) / own_s
                own_s = _prior_s(engine)
            peers_s = [self._usual_s(pool, now) for pool in engine.pools]
            peer_s = max((each for each in peers_s if each is not None), default=0.0)
            usual_s = max(usual_s, usual_s / own_s * peer_s)
        # An engine may process an upload's windows one after the other.
        after_s = rules.overdue_after_s(usual_s * charge.windows, curve.answers)
        if not is_known and lasted_s >= after_s and not self._others_answer(engine, charge):
            stall_s = rules.stall_s
            if self._is_another_idle(engine):
                stall_s = min(stall_s, rules.idle_stall_s)
            after_s = max(after_s, min(lasted_s + rules.recheck_s, stall_s))
        return started_at + after_s

    def has_livelier(self, charge: Charge) -> bool:
        """Whether another engine in service is idle, or has answered since a call began.

        An engine that has also not answered since is no better: on slow engines, all working on
        their first batch, each would also get the work of the others. Nor is an engine that is idle
        because it accepts no work now.
        """
        engine = charge.engine
        return engine is not None and any(
            other.state is EngineState.READY
            and other.cap >= 1.0
            and other.engine_id not in charge.ticket.excluded
            and (not other.in_flight or _has_answered_since(other, charge))
            for other in _others(engine)
        )

    def _others_answer(self, engine: Engine, charge: Charge) -> bool:
        """Whether another engine for the same model has answered well since a call began."""
        return any(_has_answered_since(other, charge) for other in _others(engine))

    def _is_another_idle(self, engine: Engine) -> bool:
        """Whether another engine for the same model serves well and is idle."""
        return any(
            not other.in_flight and self._judge.is_witness(other) for other in _others(engine)
        )

    def suspect(self, charge: Charge, now: float) -> None:
        """Record that a call is overdue or was denied; its engine is to be probed now.

        Until it passes the probe or answers, it gets new work only if no other engine can take it.
        """
        engine = charge.engine
        if engine is not None and engine.suspected_at is None:
            engine.suspected_at = now
            self._registry.refresh(engine, now)

    def may_retry(self, now: float) -> bool:
        """Spend one retry; return whether the budget allows it."""
        return self._budget.spend(now)

    def hedge_delay_s(self) -> float | None:
        """Return how long after its charge to hedge an unanswered short request; None if not now.

        A hedge is a second ticket for the same request that excludes the first engine. The first
        response is used, and the other call is finished as cancelled.
        """
        return None if self._hedge is None else self._hedge.delay_s()

    def may_hedge(self) -> bool:
        """Spend one hedge; return whether the budget allows it."""
        return self._hedge is not None and self._hedge.spend()

    # Operator commands.

    def drain(self, engine_id: EngineId, now: float) -> tuple[Transition, ...]:
        """Stop giving an engine new work; it finishes what it has."""
        engine = self.engine(engine_id)
        return self._registry.move(engine, EngineEvent.DRAIN, now) if engine else ()

    def resume(self, engine_id: EngineId, now: float) -> tuple[Transition, ...]:
        """Return a drained engine to service after a probe; do nothing if it is withdrawn."""
        engine = self.engine(engine_id)
        if engine is None or engine.is_withdrawn:
            return ()
        return self._registry.move(engine, EngineEvent.RESUME, now)
