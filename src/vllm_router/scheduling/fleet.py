"""The fleet: which engine takes which work, and when.

Without I/O: every method takes `now` in monotonic seconds and none awaits, so no lock is needed and
a test or a simulation may run it in a time of its own. Decisions come out of `assign`; whoever
drives the fleet calls it after `submit`, `finish` and every observation, and at `next_wakeup`.

Bounds: O(log n) in engines and waiting tickets for submit, one assignment, withdraw and finish.
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
from vllm_router.scheduling.engine_states import Event
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

# Other work goes to a further engine, or is on it already: a black hole drains no queue.
_DONE: Final = frozenset((OutcomeKind.OK, OutcomeKind.CLIENT_FAULT, OutcomeKind.CLIENT_LEFT))
#: What an engine showed longer ago than this may be true no longer.
_STALE_S: Final = 10.0
#: So many answers tell what is usual: the first may have been late because the engine was cold.
_TOLD: Final = 3
#: With many engines one is probed every few milliseconds; what is usual among them changes slowly.
_USUAL_S: Final = 1.0


def _is_stale(engine: Engine, now: float) -> bool:
    return engine.last_ok_at is None or now - engine.last_ok_at >= _STALE_S


def _others(engine: Engine) -> Iterator[Engine]:
    """Return the other engines for the models that an engine serves."""
    return (each for pool in engine.pools for each in pool.members.values() if each is not engine)


def _has_answered_since(engine: Engine, charge: Charge) -> bool:
    """Whether an engine has answered well since a call to another began."""
    return engine.last_ok_at is not None and engine.last_ok_at >= charge.started_at


def _prior_s(engine: Engine) -> float:
    """Return the time of a window that is assumed before any engine has answered, in seconds."""
    return (PRIOR_HALF_AT + 1.0) / PRIOR_PEAK_PER_S / engine.spec.weight


@dataclass(frozen=True, slots=True)
class QueueView:
    """What waits for a model, of one urgency.

    Attributes:
        model: The model.
        urgency: Short requests or pieces of long ones.
        count: Tickets.
        audio_s: Their seconds of audio.
        oldest_s: How long ago the oldest of them came in, seconds.
    """

    model: str
    urgency: Urgency
    count: int
    audio_s: float
    oldest_s: float


class Fleet:
    """All engines, all waiting work, and what connects them.

    Args:
        settings: What the operator decided.
        rng: Source of chance for ties and draws.

    Raises:
        KeyError: the policy's name is not in the table.
    """

    def __init__(self, settings: FleetSettings | None = None, rng: Random | None = None) -> None:
        self.settings = settings or FleetSettings()
        self._registry = Registry(self.settings, rng or Random())  # noqa: S311 - ties, not secrets
        self._budget = RetryBudget(self.settings.retry_share, self.settings.retry_floor_per_s)
        # Of its own, or a client that sends broken files would use up others' repeats.
        self._second_opinions = RetryBudget(0.0, self.settings.second_opinions_per_s)
        self._judge = OutlierDetection(self._registry, self._budget)
        self._dispatcher = Dispatcher(self._registry)
        self._heartbeat = Heartbeat()
        #: Engines that have refused what others served; those without anything left are dropped.
        self._unfit: dict[EngineId, Engine] = {}
        after = self.settings.hedge_after_s
        self._hedge = (
            None
            if after is None
            else Hedge(None if after == "auto" else after, self.settings.hedge_share)
        )

    def __repr__(self) -> str:
        return f"<Fleet {len(self._registry.engines)} engines, {self.waiting()} waiting>"

    # What is there.

    def engine(self, engine_id: EngineId) -> Engine | None:
        """Return an engine by its id, or None."""
        return self._registry.engines.get(engine_id)

    def engines(self) -> Iterable[Engine]:
        """Return every engine that is not gone."""
        return self._registry.engines.values()

    def models(self) -> tuple[str, ...]:
        """Return the models that any engine serves, in any state but gone."""
        return tuple(model for model, pool in self._registry.pools.items() if pool.members)

    def is_ready(self, model: str | None = None) -> bool:
        """Whether an engine is ready for a model, or for any model when none is named."""
        pools = self._registry.pools
        if model is not None:
            return model in pools and pools[model].states[EngineState.READY] > 0
        return any(pool.states[EngineState.READY] for pool in pools.values())

    def is_ready_for(self, ticket: Ticket) -> bool:
        """Whether an engine is ready that has not failed on the work."""
        pool = self._registry.pools.get(ticket.model)
        return pool is not None and any(
            may_serve(engine, ticket) for engine in pool.untried(ticket)
        )

    def members(self, model: str) -> Iterable[Engine]:
        """Return the engines that serve a model, in any state but gone."""
        pool = self._registry.pools.get(model)
        return () if pool is None else pool.members.values()

    def readiness(self, model: str) -> tuple[int, float]:
        """Return how many engines are ready for a model, and when one of them last became so."""
        count, at = 0, -math.inf
        for engine in self.members(model):
            if engine.state is EngineState.READY and engine.ready_since is not None:
                count += 1
                at = max(at, engine.ready_since)
        return count, at

    def may_recover_for(self, ticket: Ticket, now: float) -> bool:
        """Whether an engine that is out and has not failed on the work may be ready any moment."""
        pool = self._registry.pools.get(ticket.model)
        return pool is not None and any(
            self._judge.may_return(engine, now) for engine in pool.untried(ticket)
        )

    def waiting(self, model: str | None = None) -> int:
        """Return how many tickets wait, for a model or in all."""
        pools = self._registry.pools
        if model is not None:
            return len(pools[model].queue) if model in pools else 0
        return sum(len(pool.queue) for pool in pools.values())

    def queues(self, now: float | None = None) -> Iterator[QueueView]:
        """Yield what waits, by model and urgency; without `now` the oldest's age is 0."""
        for model, pool in self._registry.pools.items():
            for urgency, lane in (
                (Urgency.SHORT, pool.queue.short),
                (Urgency.LONG, pool.queue.long),
            ):
                head = lane.head()
                age_s = 0.0 if head is None or now is None else max(0.0, now - head.enqueued_at)
                yield QueueView(model, urgency, lane.count, lane.audio_s, age_s)

    # What is observed.

    def beat(self, now: float) -> None:
        """Note that the event loop runs; to be called every `heartbeat.BEAT_S` seconds.

        Time that a call or a probe took is held against no engine, and not learned, where beats
        were missing meanwhile: then the router itself stood still.
        """
        self._heartbeat.beat(now)

    def apply(self, change: Change, now: float) -> tuple[Transition, ...]:
        """Take a change from discovery in."""
        return self._registry.apply(change, now)

    def observe_models(
        self,
        engine_id: EngineId,
        models: tuple[str, ...],
        now: float,
        max_model_lens: dict[str, int] | None = None,
    ) -> None:
        """Note the models that an engine says it serves; unknown ids are ignored."""
        engine = self.engine(engine_id)
        if engine is None:
            return
        engine.max_model_lens = max_model_lens or {}
        if not models:
            # It may pass its probes, and still takes no work.
            engine.last_error = "its /v1/models names no model"
        models = self._judge.without_withheld(engine, models, now)
        if engine.models != models:
            self._registry.set_models(engine, models, now)

    def observe_stats(
        self, engine_id: EngineId, stats: EngineStats | None, now: float
    ) -> tuple[Transition, ...]:
        """Note what a scrape says; None: it failed, and the others' load there is unknown."""
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
            moves = self._registry.move(engine, Event.FELL_ASLEEP, now)
        elif stats is not None and not is_sleeping and engine.state is EngineState.SLEEPING:
            moves = self._registry.move(engine, Event.WOKE, now)
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
        """Note the result of a probe that has just ended."""
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
        """Give an idle engine that once looked slow the chance to show what it is now.

        A slow engine gets little work, and only work shows that it is slow no longer. So when it
        has had none for a while it passes for as fast as the others have been of late: the next
        answer tells.
        """
        if engine.in_flight or not engine.curve.answers or not _is_stale(engine, now):
            return
        others_s = [self._usual_s(pool, now) for pool in engine.pools]
        usual_s = min((each for each in others_s if each is not None), default=None)
        own_s = engine.curve.window_s(1.0)
        if usual_s is not None and own_s > usual_s:
            engine.curve.rescale(usual_s / own_s)
            # Not at once: when the load of a large fleet ends, this comes to hundreds of engines.
            self._registry.relearned(engine, now)

    def _usual_s(self, pool: Pool, now: float) -> float | None:
        """Return the median time of a window on the engines that have answered of late, if any."""
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
        """Say whether a ticket may join the queue, without joining it.

        Of a long audio in pieces the whole is asked for once, by a ticket with its full length; the
        pieces are then submitted with `is_admitted`.

        Raises:
            QueueFull: the queue is too long, by its audio or by its expected wait.
        """
        admit(self._registry.pool(ticket.model), ticket, self.settings, now)

    def submit(self, ticket: Ticket, now: float) -> None:
        """Queue a ticket.

        Raises:
            QueueFull: see `admit`; never for a ticket that was admitted before.
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
        """Exclude the engines that refuse such uploads, where another one is ready.

        Where none is, their refusal is what tells that the router has to convert the upload.
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
        """Return a charge at once where nothing waits and there is room; None: `submit` the ticket.

        What `submit` and `assign` come to then, in half the time: so it is for nearly every upload.
        """
        pool = self._registry.pools.get(ticket.model)
        if pool is None or len(pool.queue):
            return None
        self._let_in(pool, ticket, now)
        return self._dispatcher.take(pool, ticket, now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Take a ticket out of the queue at once; nothing happens if it does not wait."""
        self._dispatcher.withdraw(ticket, now)

    def assign(self, now: float) -> list[Assignment]:
        """Return every decision that is possible now."""
        return self._dispatcher.assign(now)

    def next_wakeup(self, now: float) -> float | None:
        """Return when `assign` is to be called again if nothing else happens; None: need not be."""
        return self._dispatcher.next_wakeup(now)

    def finish(self, charge: Charge, outcome: Outcome, now: float) -> tuple[Transition, ...]:
        """Release a charge and judge its engine by the outcome; a second call does nothing."""
        engine = charge.engine
        if engine is None:
            return ()
        charge.engine = None
        kind = outcome.kind
        windows = load.release(charge, engine, now, is_done=kind in _DONE)
        moves: tuple[Transition, ...] = ()
        if not self._heartbeat.ran_since(charge.started_at, now):
            # How long it took says something of the router, not of the engine.
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
                # It would have taken at least as long. Not learned, a slow engine would stay a
                # suspect for ever: none of its answers would come to be seen.
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
        """Take an engine for slow only once as many answers were late as take it out.

        Learned one by one they would pass for its usual time before they are that many.
        """
        if engine.slow_answers < self.settings.health.outlier_answers:
            return
        engine.slow_answers = 0
        engine.curve.rescale(seconds / engine.curve.window_s(windows))
        self._registry.relearned(engine, now, is_at_once=True)

    def died(self, charge: Charge, now: float, others: Iterable[Charge] = ()) -> bool:
        """Note that an engine has ended while it worked on a charge, released or not.

        Args:
            charge: The charge.
            now: Monotonic seconds.
            others: What else is charged for the same audio.

        Returns:
            Whether the upload may be what ended it. It is not where the engine has cut off others
            before, one after the other, and takes calls all the same.
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
        """Note that an upload has ended engines, which are not to be ejected for longer for it."""
        for death in deaths:
            engine = self.engine(death.engine_id)
            if engine is not None:
                self._judge.absolve(engine, now)

    def is_evidence(self, charge: Charge) -> bool:
        """Whether a failure of this call says anything of the work; to be asked before `finish`.

        An engine that fails on everything says nothing of the work that it fails on.
        """
        engine = charge.engine
        return engine is None or (not engine.is_on_trial and not engine.record.count)

    def refused(self, charge: Charge, status: int, now: float) -> tuple[int, int]:
        """Note that an engine has refused an upload, before the charge is released.

        Returns:
            Its votes against the upload, 0 or 1, and how many are needed to tell the client.
        """
        engine = charge.engine
        if engine is None:
            return 0, self.settings.blame.votes
        pool = self._registry.pool(charge.ticket.model)
        return self._judge.refused(engine, pool, status, now)

    def agreed(self, model: str, status: int, engine_ids: Iterable[EngineId], now: float) -> None:
        """Note that engines have refused an upload with good reason."""
        engines = [engine for each in engine_ids if (engine := self.engine(each)) is not None]
        self._judge.agreed(engines, self._registry.pool(model), status, now)

    def refuted(
        self, engine_id: EngineId, ticket: Ticket, status: int, now: float, *, lacks_model: bool
    ) -> bool:
        """Note that another engine has served well what this one had refused.

        Returns:
            Whether the engine is to be blamed. It is not where it lacks the model or refuses only
            uploads of this kind: then it gets no more of those.
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
        """Count a failure that was left undecided when its charge was released.

        Args:
            engine_id: The engine.
            started_at: When the call began, monotonic seconds: on slow engines it is known only
                long after whose fault it was, and the engine may have been out meanwhile.
            outcome: What it comes to.
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
        """Whether a refused upload may be given to one more engine; it is counted if so."""
        return self._second_opinions.spend(now)

    def rest_s(self, ticket: Ticket, now: float) -> float | None:
        """Return in how many seconds an engine may be asked again; None: one may be now.

        Not None only where every engine that could be asked has asked for a rest.
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
        """Return when an unanswered call is overdue, by its engine's present speed and load.

        Monotonic seconds; in the past if it is. To be asked again then: the load may have grown.
        """
        engine = charge.engine
        if engine is None:
            return math.inf
        rules, curve = self.settings.suspicion, engine.curve
        # A standstill of the router itself is no part of an engine's time.
        started_at = max(charge.started_at, self._heartbeat.stood_still_until)
        lasted_s = now - started_at
        usual_s = curve.window_s(max(engine.load, load.mean(charge, engine, now)))
        is_known = rules.is_known(curve.answers)
        if not is_known:
            # What is assumed of an engine is relative to its peers, once they are known.
            own_s = curve.window_s(1.0)
            if not curve.seen:
                usual_s *= _prior_s(engine) / own_s
                own_s = _prior_s(engine)
            peers_s = [self._usual_s(pool, now) for pool in engine.pools]
            peer_s = max((each for each in peers_s if each is not None), default=0.0)
            usual_s = max(usual_s, usual_s / own_s * peer_s)
        # An engine may do an upload's windows one after the other.
        after_s = rules.overdue_after_s(usual_s * charge.windows, curve.answers)
        if not is_known and lasted_s >= after_s and not self._others_answer(engine, charge):
            stall_s = rules.stall_s
            if self._is_another_idle(engine):
                stall_s = min(stall_s, rules.idle_stall_s)
            after_s = max(after_s, min(lasted_s + rules.recheck_s, stall_s))
        return started_at + after_s

    def has_livelier(self, charge: Charge) -> bool:
        """Whether another engine in service is idle, or has answered since a call began.

        One that owes answers for as long is no better: on slow engines, all at work on their first
        batch, each would be given the work of the others as well. Nor is one that is idle because
        it takes nothing now.
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
        """Whether another engine for the same model serves and has nothing to do."""
        return any(
            not other.in_flight and self._judge.is_witness(other) for other in _others(engine)
        )

    def suspect(self, charge: Charge, now: float) -> None:
        """Note that a call is overdue, or was denied; its engine is to be probed now.

        Until it has passed, or has answered, it gets new work only where no other engine can.
        """
        engine = charge.engine
        if engine is not None and engine.suspected_at is None:
            engine.suspected_at = now
            self._registry.refresh(engine, now)

    def may_retry(self, now: float) -> bool:
        """Whether one more attempt is within the retry budget; it is counted if so."""
        return self._budget.spend(now)

    def hedge_delay_s(self) -> float | None:
        """Return how long after its charge an unanswered short request is hedged; None: not now.

        A hedge is a second ticket for the same request with the first engine excluded. Whichever
        answers first is used, the other is finished as cancelled.
        """
        return None if self._hedge is None else self._hedge.delay_s()

    def may_hedge(self) -> bool:
        """Whether one more hedge is within its budget; it is counted if so."""
        return self._hedge is not None and self._hedge.spend()

    # The operator's word.

    def drain(self, engine_id: EngineId, now: float) -> tuple[Transition, ...]:
        """Give an engine no new work; what it has finishes."""
        engine = self.engine(engine_id)
        return self._registry.move(engine, Event.DRAIN, now) if engine else ()

    def resume(self, engine_id: EngineId, now: float) -> tuple[Transition, ...]:
        """Take a drained engine back, by way of a probe; nothing happens if it is withdrawn."""
        engine = self.engine(engine_id)
        if engine is None or engine.is_withdrawn:
            return ()
        return self._registry.move(engine, Event.RESUME, now)
