"""What answers and probes say about an engine, and what follows from it."""

from collections.abc import Iterable
from typing import Final

from vllm_router.scheduling.blame import rest_s
from vllm_router.scheduling.engine import Engine, EngineState, ProbeResult, Transition
from vllm_router.scheduling.engine_states import OUT, Event
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.registry import Registry
from vllm_router.scheduling.retry import RetryBudget
from vllm_router.scheduling.work import Charge, Outcome, OutcomeKind

_FAILURES: Final = frozenset(
    (
        OutcomeKind.UNREACHABLE,
        OutcomeKind.RESET,
        OutcomeKind.BAD_STATUS,
        OutcomeKind.DENIED,
        OutcomeKind.TIMEOUT,
    )
)

# So many answers, with forgetting, before an engine's own usual latency is known.
_KNOWN_AFTER: Final = 12.0
# Times the usual time of a window within which a busy engine has answered somebody.
_BUSY_FACTOR: Final = 3.0


def is_failure(kind: OutcomeKind) -> bool:
    """Whether an outcome speaks against the engine."""
    return kind in _FAILURES


class OutlierDetection:
    """Counts the good and the bad of each engine and moves it when a streak is long enough.

    Args:
        registry: Where the engines are.
        budget: Is granted a repeat for each request that an ejection cuts off.
    """

    def __init__(self, registry: Registry, budget: RetryBudget) -> None:
        self._registry = registry
        self._rules = registry.settings.health
        self._blame = registry.settings.blame
        self._budget = budget

    def probed(self, engine: Engine, result: ProbeResult) -> tuple[Transition, ...]:
        """Take the result of a probe in."""
        now = result.at
        if result.is_ok:
            return self._probe_passed(engine, result)
        # A probe waits like any other work, which on a slow engine takes long.
        usual_s = engine.curve.window_s(engine.load)
        grace_s = max(self._rules.busy_grace_s, _BUSY_FACTOR * usual_s)
        began_at = now - result.seconds - grace_s
        is_suspected = engine.suspected_at is not None
        has_answered = engine.last_ok_at is not None and engine.last_ok_at >= began_at
        if result.is_timeout and has_answered and not is_suspected:
            # Busy is not dead: it has answered a client meanwhile.
            return ()
        engine.last_probe = result
        engine.last_error = result.error
        engine.failed_probes += 1
        why = f"probe failed: {result.error or 'no reason given'}"
        if engine.state is EngineState.DISCOVERED:
            return self._registry.move(engine, Event.PROBE_FAILED, now, why)
        # Two witnesses, a client's call and a probe, are enough where others can do the work. To be
        # denied is no accident that would pass.
        is_enough = result.is_denied or (is_suspected and self._is_spared(engine))
        strikes = 1 if is_enough else self._rules.strikes
        if engine.failed_probes < strikes:
            self._registry.refresh(engine, now)
            return ()
        if engine.state is EngineState.READY:
            self._budget.grant(engine.in_flight, now)
        return self._registry.move(
            engine, Event.PROBES_FAILED, now, f"{engine.failed_probes} in a row: {why}"
        )

    def _is_spared(self, engine: Engine) -> bool:
        """Whether no more than half of the engines are out without this one."""
        return all(
            self._rules.may_eject(
                pool.states[EngineState.EJECTED] + pool.states[EngineState.PROBING],
                len(pool.members),
            )
            for pool in engine.pools
        )

    def _probe_passed(self, engine: Engine, result: ProbeResult) -> tuple[Transition, ...]:
        now = result.at
        engine.last_probe = result
        engine.failed_probes = 0
        self._clear(engine, now)
        if engine.state is not EngineState.EJECTED:
            return self._registry.move(engine, Event.PROBE_PASSED, now)
        if now >= engine.ejected_until and self._is_proof(engine, now):
            return self._registry.move(engine, Event.PROVED, now, "a probe passed after its time")
        self._registry.refresh(engine, now)
        return ()

    def _is_proof(self, engine: Engine, now: float) -> bool:
        """Whether a passed probe is enough to bring an ejected engine back.

        Not when it has passed one before and then failed: then an upload has to show that it works.
        It gets one, as long as uploads come in at all. One that was only late may be slow, and then
        other engines get the uploads.
        """
        return (
            engine.ejections <= 1
            or engine.record.are_late
            or now - engine.ejected_until >= self._rules.longest_retrial_s
            or not any(pool.states[EngineState.READY] for pool in engine.pools)
        )

    def _clear(self, engine: Engine, now: float) -> None:
        if engine.suspected_at is not None:
            engine.suspected_at = None
            self._registry.refresh(engine, now)

    def may_return(self, engine: Engine, now: float) -> bool:
        """Whether an engine that is out may be ready again any moment, or for the first time.

        One that refuses its first probe is not there yet; one that is slow to answer it is. One
        that passes its probes and has failed at uploads again since is not away, but broken.
        """
        if engine.state not in OUT or now - engine.out_since >= self._rules.comeback_s:
            return False
        probe = engine.last_probe
        if engine.state is EngineState.EJECTED and engine.ejections > 1:
            return probe is None or not probe.is_ok
        return engine.ready_since is not None or probe is None or probe.is_timeout

    def answered_well(self, engine: Engine, charge: Charge, now: float) -> tuple[Transition, ...]:
        """Take an answer in that shows the engine works."""
        engine.last_ok_at = now
        engine.failed_probes = engine.failed_answers = 0
        if engine.record.count:
            engine.record.good()
        if engine.rests and charge.started_at >= engine.rests_until:
            engine.rests = 0
        if engine.suspected_at is not None:
            self._clear(engine, now)
        if engine.ejections and engine.state is EngineState.READY:
            self._forgive(engine, now)
        if not engine.is_on_trial or charge.started_at < engine.trial_at:
            return ()
        moves: tuple[Transition, ...] = ()
        if engine.state is EngineState.EJECTED:
            moves = self._registry.move(engine, Event.PROVED, now, "an answer was good")
        engine.is_on_trial = False
        self._registry.refresh(engine, now)
        return moves

    def _forgive(self, engine: Engine, now: float) -> None:
        if now - engine.ejected_until >= self._rules.forgiven_after_s:
            engine.ejections = 0

    def is_far_off(self, engine: Engine, windows: float, seconds: float) -> bool:
        """Whether an answer took far longer than the engine's usual, and the fleet's."""
        curve, factor = engine.curve, self._rules.outlier_factor
        late_s = max(self._rules.outlier_floor_s, factor * curve.window_s(windows))
        if seconds <= late_s or curve.answers < _KNOWN_AFTER:
            engine.slow_answers = 0
            return False
        for pool in engine.pools:
            ready = pool.states[EngineState.READY]
            if ready > 1 and pool.peak_per_s > 0.0:
                usual_s = (pool.half_at + ready * windows) / pool.peak_per_s
                return seconds > factor * usual_s
        return False

    def answered_late(
        self, engine: Engine, charge: Charge, seconds: float, now: float
    ) -> tuple[Transition, ...]:
        """Take an answer in that was good but far too late."""
        engine.slow_answers += 1
        if engine.slow_answers < self._rules.outlier_answers or engine.is_on_trial:
            return self.answered_well(engine, charge, now)
        engine.last_error = f"an answer took {seconds:.1f} s"
        why = f"{engine.slow_answers} answers in a row took far too long, the last {seconds:.1f} s"
        return self._take_out(engine, why, now)

    def overtaken(
        self, engine: Engine, charge: Charge, seconds: float, now: float
    ) -> tuple[Transition, ...]:
        """Take in that another engine, asked later, was quicker than an overdue call.

        It counts against an engine that has answered nothing meanwhile. One that has answers other
        calls, and is only slow. How slow a cold one may be is not known, so it goes on trial before
        it is ejected: one upload at a time may be late for it.
        """
        is_silent = engine.last_ok_at is None or engine.last_ok_at < charge.started_at
        rules = self._registry.settings.suspicion
        if not is_silent:
            return ()
        if not rules.is_known(engine.curve.answers) and not engine.is_on_trial:
            engine.record.bad(now, is_late=True)
            engine.is_on_trial = True
            engine.trial_at = now + self._rules.ejection_s
            self._registry.refresh(engine, now)
            return ()
        if engine.is_on_trial and charge.started_at < engine.trial_at:
            return ()
        detail = f"no answer for {seconds:.1f} s, and another engine gave it"
        outcome = Outcome(OutcomeKind.OVERTAKEN, None, None, detail)
        return self.answered_badly(engine, charge.started_at, outcome, now)

    def answered_badly(
        self,
        engine: Engine,
        started_at: float,
        outcome: Outcome,
        now: float,
        *,
        by_suspect: bool = False,
    ) -> tuple[Transition, ...]:
        """Take a failed answer in.

        Args:
            engine: The engine.
            started_at: When the call began, monotonic seconds.
            outcome: How it ended.
            now: Monotonic seconds.
            by_suspect: Whether an engine had died on the upload before: then this one is not
                ejected for longer than the first time.
        """
        engine.last_error = outcome.detail or outcome.kind.value
        is_late = outcome.kind is OutcomeKind.OVERTAKEN or outcome.kind is OutcomeKind.TIMEOUT
        engine.record.bad(now, is_late=is_late)
        if started_at < engine.out_since or engine.state not in (
            EngineState.READY,
            EngineState.EJECTED,
        ):
            # Sent before it was taken out: what it says has already been acted on.
            return ()
        engine.failed_answers += 1
        # To be denied is no accident that would pass.
        is_denied = outcome.kind is OutcomeKind.DENIED and engine.suspected_at is not None
        is_enough = engine.is_on_trial or is_denied
        strikes = 1 if is_enough else self._rules.strikes
        if engine.failed_answers < strikes:
            return ()
        if is_denied:
            # A probe that passes says nothing of it: as after a second ejection.
            engine.ejections = max(1, engine.ejections)
        why = f"{engine.failed_answers} bad answers in a row, the last: {engine.last_error}"
        return self._take_out(engine, why, now, is_longer=not by_suspect)

    def _take_out(
        self, engine: Engine, why: str, now: float, *, is_longer: bool = True
    ) -> tuple[Transition, ...]:
        engine.is_on_trial = True
        may_eject = all(
            self._rules.may_eject(pool.states[EngineState.EJECTED], len(pool.members))
            for pool in engine.pools
        )
        if engine.state is EngineState.READY and not may_eject:
            # Panic: with most engines bad all are tried, one request at a time, rather than none.
            engine.trial_at = now + self._rules.trial_pause_s
            self._registry.refresh(engine, now)
            return ()
        if is_longer:
            engine.ejections += 1
        lasts_s = self._rules.ejection_for(engine.ejections if is_longer else 1)
        if engine.last_probe is not None and engine.last_probe.is_ok:
            lasts_s = min(lasts_s, self._rules.longest_retrial_s)
        engine.ejected_until = max(engine.ejected_until, now + lasts_s)
        engine.trial_at = engine.ejected_until
        if engine.state is EngineState.EJECTED:
            engine.out_since = now
            self._registry.refresh(engine, now)
            return ()
        self._budget.grant(engine.in_flight, now)
        return self._registry.move(engine, Event.ANSWERS_FAILED, now, why)

    # Deaths.

    def absolve(self, engine: Engine, now: float) -> None:
        """Take an ejection back: what the engine failed on was an upload that ends engines."""
        if engine.ejections:
            engine.ejections -= 1
        if engine.state is EngineState.EJECTED:
            until = min(engine.ejected_until, now + self._rules.ejection_s)
            engine.ejected_until = engine.trial_at = until
            self._registry.refresh(engine, now)

    # Refusals.

    def refused_rightly(self, engine: Engine) -> None:
        """Take in that a client was shown an engine's refusal."""
        engine.failed_probes = 0
        if engine.record.count <= 1:
            engine.failed_answers = 0

    def is_witness(self, engine: Engine) -> bool:
        """Whether an engine serves well, so that its word on a refused upload counts."""
        return (
            engine.state is EngineState.READY
            and not engine.is_on_trial
            and engine.suspected_at is None
            and engine.record.count < self._blame.doubted_after
        )

    def refused(self, engine: Engine, pool: Pool, status: int, now: float) -> tuple[int, int]:
        """Take a refusal in of which it is not known yet whether it is justified.

        Returns:
            The engine's votes against the upload, 0 or 1, and how many are needed.
        """
        record = engine.record
        engine.failed_probes = 0
        record.bad(now)
        is_usual = pool.agreements.are_usual(status, now)
        # What takes twenty seconds for a window has no good answer of the last three.
        recent_s = max(self._blame.recent_s, _BUSY_FACTOR * engine.curve.window_s(engine.load))
        is_credible = record.is_credible(engine.last_ok_at, now, recent_s)
        if all(member.last_ok_at is None for member in pool.members.values()):
            # Nobody has served anything yet: one's word is worth as much as another's.
            is_credible = True
        vote = int(is_credible and not engine.is_on_trial)
        needed = self._blame.votes_needed(is_usual=is_usual, count=record.count)
        if needed == 1:
            vote = int(not engine.is_on_trial)
        if engine.is_on_trial:
            if self._others_may_serve(engine):
                # Whose fault it was is known only when another engine has answered. Until then
                # it would be given one upload after the other, each to be asked for twice.
                engine.trial_at = max(engine.trial_at, now + self._rules.ejection_s)
                self._registry.refresh(engine, now)
        elif (
            engine.state is EngineState.READY
            and self._blame.is_doubtful(is_usual=is_usual, unexplained=record.unexplained)
            and self._others_serve(engine, record.since)
        ):
            # Nothing is proved yet. One upload at a time until there is: what comes in meanwhile
            # would have to go to another engine.
            engine.is_on_trial = True
            engine.trial_at = now + self._rules.ejection_s
            engine.last_error = f"it refuses one upload after the other, the last with {status}"
            self._budget.grant(engine.in_flight, now)
            self._registry.refresh(engine, now)
        return vote, needed

    def _others_may_serve(self, engine: Engine) -> bool:
        """Whether there is an engine for each of the models that takes its uploads meanwhile."""
        return all(
            any(other is not engine and self.is_witness(other) for other in pool.members.values())
            for pool in engine.pools
        )

    def _others_serve(self, engine: Engine, since: float) -> bool:
        """Whether half of the others, at least, serve, and one has answered well since a time.

        After many refusals none need have: what refuses at once is idle, and is given all that
        comes before another has answered anything.
        """
        is_sure = engine.record.unexplained >= self._blame.doubted_after_usual
        for pool in engine.pools:
            others = [other for other in pool.members.values() if other is not engine]
            serving = [other for other in others if self.is_witness(other)]
            if 2 * len(serving) < len(pool.members) - 1:
                return False
            if is_sure and serving:
                continue
            if not any(o.last_ok_at is not None and o.last_ok_at >= since for o in serving):
                return False
        return True

    def agreed(self, engines: Iterable[Engine], pool: Pool, status: int, now: float) -> None:
        """Take in that engines have refused an upload with good reason."""
        pool.agreements.note(status, now)
        for engine in engines:
            engine.record.explained()
            is_in_line = engine.record.unexplained < self._blame.doubted_after
            if engine.is_on_trial and is_in_line and engine.state is EngineState.READY:
                engine.is_on_trial = False
                self._registry.refresh(engine, now)

    def refuted(
        self, engine: Engine, pool: Pool, status: int, now: float, *, lacks_model: bool
    ) -> None:
        """Take in that another engine has served well what this one had refused.

        Args:
            engine: The engine.
            pool: Of the model.
            status: What it answered.
            now: Monotonic seconds.
            lacks_model: Whether it said that it does not have the model.
        """
        pool.agreements.forget(status)
        if lacks_model:
            self._withhold(engine, pool.model, now)
        # Counted by `refused` already, and again when it is blamed.
        engine.record.count = max(0, engine.record.count - 1)
        engine.record.explained()

    # Models that an engine lists and does not have.

    def _withhold(self, engine: Engine, model: str, now: float) -> None:
        until = now + self._rules.withheld_s
        engine.withheld[model] = until
        engine.last_error = f"it lists the model `{model}` and answers 404 for it"
        if model in engine.models:
            models = tuple(name for name in engine.models if name != model)
            self._registry.set_models(engine, models, now)

    def without_withheld(
        self, engine: Engine, models: tuple[str, ...], now: float
    ) -> tuple[str, ...]:
        """Return an engine's models but for those that it answered 404 for of late."""
        self.give_back_models(engine, now)
        if not engine.withheld:
            return models
        return tuple(model for model in models if model not in engine.withheld)

    def give_back_models(self, engine: Engine, now: float) -> None:
        """Try an engine again, with one upload, for a model that it did not have."""
        for model in [model for model, until in engine.withheld.items() if until <= now]:
            del engine.withheld[model]
            if model not in engine.models:
                engine.is_on_trial, engine.trial_at = True, now
                self._registry.set_models(engine, (*engine.models, model), now)

    # Rests.

    def asked_for_rest(
        self, engine: Engine, charge: Charge, asked_s: float | None, now: float
    ) -> None:
        """Leave an engine alone that asks for it, then try it with one upload."""
        engine.failed_probes = 0
        if now < engine.rests_until or charge.started_at < engine.rests_until:
            # Sent before it asked: it says the same again.
            return
        engine.rests += 1
        lasts_s = rest_s(asked_s, engine.rests, self._rules.longest_rest_s)
        engine.rests_until = now + lasts_s
        engine.is_on_trial = True
        engine.trial_at = max(engine.trial_at, engine.rests_until)
        engine.last_error = f"it asked to be left alone for {lasts_s:.0f} s"
        self._registry.refresh(engine, now)
