"""Rates engines by their answers and probes, and ejects or restores them."""

from collections.abc import Iterable
from typing import Final

from vllm_router.scheduling.blame import rest_s
from vllm_router.scheduling.engine import Engine, EngineState, ProbeResult, Transition
from vllm_router.scheduling.engine_states import OUT, EngineEvent
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

# Answers, with decay, after which an engine's own usual latency is known.
_KNOWN_AFTER: Final = 12.0
# A probe timeout is forgiven if the engine answered within this many usual window times.
_BUSY_FACTOR: Final = 3.0


def is_failure(kind: OutcomeKind) -> bool:
    """Whether an outcome counts against the engine."""
    return kind in _FAILURES


class OutlierDetection:
    """Counts good and bad answers per engine, and moves an engine after a long enough streak.

    Args:
        registry: The engines.
        budget: Gets one retry for each request that an ejection cuts off.
    """

    def __init__(self, registry: Registry, budget: RetryBudget) -> None:
        self._registry = registry
        self._rules = registry.settings.health
        self._blame = registry.settings.blame
        self._budget = budget

    def probed(self, engine: Engine, result: ProbeResult) -> tuple[Transition, ...]:
        """Record the result of a probe."""
        now = result.at
        if result.is_ok:
            return self._probe_passed(engine, result)
        # A probe waits like any other work, which takes long on a slow engine.
        usual_s = engine.curve.window_s(engine.load)
        grace_s = max(self._rules.busy_grace_s, _BUSY_FACTOR * usual_s)
        began_at = now - result.seconds - grace_s
        is_suspected = engine.suspected_at is not None
        has_answered = engine.last_ok_at is not None and engine.last_ok_at >= began_at
        if result.is_timeout and has_answered and not is_suspected:
            # Busy is not dead: the engine has answered a client in the meantime.
            return ()
        engine.last_probe = result
        engine.last_error = result.error
        engine.failed_probes += 1
        why = f"probe failed: {result.error or 'no reason given'}"
        if engine.state is EngineState.DISCOVERED:
            return self._registry.move(engine, EngineEvent.PROBE_FAILED, now, why)
        # Two witnesses, a client's call and a probe, suffice if other engines can do the work. A
        # denial is not transient.
        is_enough = result.is_denied or (is_suspected and self._is_spared(engine))
        strikes = 1 if is_enough else self._rules.strikes
        if engine.failed_probes < strikes:
            self._registry.refresh(engine, now)
            return ()
        if engine.state is EngineState.READY:
            self._budget.grant(engine.in_flight, now)
        return self._registry.move(
            engine,
            EngineEvent.PROBES_FAILED,
            now,
            f"{engine.failed_probes} consecutive failures: {why}",
        )

    def _is_spared(self, engine: Engine) -> bool:
        """Whether at most half of the engines would be out without this one."""
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
            return self._registry.move(engine, EngineEvent.PROBE_PASSED, now)
        if now >= engine.ejected_until and self._is_proof(engine, now):
            return self._registry.move(
                engine, EngineEvent.PROVED, now, "a probe passed after ejection"
            )
        self._registry.refresh(engine, now)
        return ()

    def _is_proof(self, engine: Engine, now: float) -> bool:
        """Whether a passed probe suffices to restore an ejected engine.

        Not if it failed again after an earlier return: then it must first serve an upload. It gets
        one for as long as uploads arrive at all. An engine that was only late may be slow, and then
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
        """Whether an engine that is out may become ready soon, again or for the first time.

        An engine that refuses its first probe is not up yet; one that times out may be. An engine
        that passes its probes but has failed on uploads again is broken, not restarting.
        """
        if engine.state not in OUT or now - engine.out_since >= self._rules.comeback_s:
            return False
        probe = engine.last_probe
        if engine.state is EngineState.EJECTED and engine.ejections > 1:
            return probe is None or not probe.is_ok
        return engine.ready_since is not None or probe is None or probe.is_timeout

    def answered_well(self, engine: Engine, charge: Charge, now: float) -> tuple[Transition, ...]:
        """Record an answer that shows that the engine works."""
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
            moves = self._registry.move(engine, EngineEvent.PROVED, now, "an upload succeeded")
        engine.is_on_trial = False
        self._registry.refresh(engine, now)
        return moves

    def _forgive(self, engine: Engine, now: float) -> None:
        if now - engine.ejected_until >= self._rules.forgiven_after_s:
            engine.ejections = 0

    def is_far_off(self, engine: Engine, windows: float, seconds: float) -> bool:
        """Whether an answer took far longer than usual for the engine and for the fleet."""
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
        """Record an answer that was good but far too late."""
        engine.slow_answers += 1
        if engine.slow_answers < self._rules.outlier_answers or engine.is_on_trial:
            return self.answered_well(engine, charge, now)
        engine.last_error = f"an answer took {seconds:.1f} s"
        why = f"{engine.slow_answers} answers in a row took far too long, the last {seconds:.1f} s"
        return self._take_out(engine, why, now)

    def overtaken(
        self, engine: Engine, charge: Charge, seconds: float, now: float
    ) -> tuple[Transition, ...]:
        """Record that another engine, asked later, answered before an overdue call.

        This counts against an engine that has answered nothing in the meantime. An engine that
        answers other calls is only slow. How slow a cold engine may be is unknown, so it goes on
        trial before it is ejected: then at most one upload at a time is late.
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
        detail = f"no answer for {seconds:.1f} s; another engine answered first"
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
        """Record a failed answer.

        Args:
            engine: The engine.
            started_at: When the call began, monotonic seconds.
            outcome: How it ended.
            now: Monotonic seconds.
            by_suspect: Whether the upload had crashed an engine before; then this engine's ejection
                is no longer than a first one.
        """
        engine.last_error = outcome.detail or outcome.kind.value
        is_late = outcome.kind is OutcomeKind.OVERTAKEN or outcome.kind is OutcomeKind.TIMEOUT
        engine.record.bad(now, is_late=is_late)
        if started_at < engine.out_since or engine.state not in (
            EngineState.READY,
            EngineState.EJECTED,
        ):
            # Sent before the engine left service; that has already been acted on.
            return ()
        engine.failed_answers += 1
        # A denial is not transient.
        is_denied = outcome.kind is OutcomeKind.DENIED and engine.suspected_at is not None
        is_enough = engine.is_on_trial or is_denied
        strikes = 1 if is_enough else self._rules.strikes
        if engine.failed_answers < strikes:
            return ()
        if is_denied:
            # A passed probe proves nothing here, as after a second ejection.
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
            # Panic: if most engines are bad, all are tried with one request at a time, not none.
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
        return self._registry.move(engine, EngineEvent.ANSWERS_FAILED, now, why)

    # Crashes.

    def absolve(self, engine: Engine, now: float) -> None:
        """Revoke an ejection: the engine failed on an upload that crashes engines."""
        if engine.ejections:
            engine.ejections -= 1
        if engine.state is EngineState.EJECTED:
            until = min(engine.ejected_until, now + self._rules.ejection_s)
            engine.ejected_until = engine.trial_at = until
            self._registry.refresh(engine, now)

    # Refusals.

    def refused_rightly(self, engine: Engine) -> None:
        """Record that an engine's refusal was returned to the client."""
        engine.failed_probes = 0
        if engine.record.count <= 1:
            engine.failed_answers = 0

    def is_witness(self, engine: Engine) -> bool:
        """Whether an engine serves well, so that its vote on a refused upload counts."""
        return (
            engine.state is EngineState.READY
            and not engine.is_on_trial
            and engine.suspected_at is None
            and engine.record.count < self._blame.doubted_after
        )

    def refused(self, engine: Engine, pool: Pool, status: int, now: float) -> tuple[int, int]:
        """Record a refusal that is not known yet to be justified.

        Returns:
            The engine's votes against the upload, 0 or 1, and how many are needed.
        """
        record = engine.record
        engine.failed_probes = 0
        record.bad(now)
        is_usual = pool.agreements.are_usual(status, now)
        # An engine that takes twenty seconds per window has no good answer within three seconds.
        recent_s = max(self._blame.recent_s, _BUSY_FACTOR * engine.curve.window_s(engine.load))
        is_credible = record.is_credible(engine.last_ok_at, now, recent_s)
        if all(member.last_ok_at is None for member in pool.members.values()):
            # No engine has served anything yet, so no engine's vote is better than another's.
            is_credible = True
        vote = int(is_credible and not engine.is_on_trial)
        needed = self._blame.votes_needed(is_usual=is_usual, count=record.count)
        if needed == 1:
            vote = int(not engine.is_on_trial)
        if engine.is_on_trial:
            if self._others_may_serve(engine):
                # The fault is known only once another engine has answered. Until then the engine
                # would get one upload after another, each of which needs a second call.
                engine.trial_at = max(engine.trial_at, now + self._rules.ejection_s)
                self._registry.refresh(engine, now)
        elif (
            engine.state is EngineState.READY
            and self._blame.is_doubtful(is_usual=is_usual, unexplained=record.unexplained)
            and self._others_serve(engine, record.since)
        ):
            # Nothing is proved yet. Until it is, the engine gets one upload at a time, because any
            # upload that it refuses must go to another engine.
            engine.is_on_trial = True
            engine.trial_at = now + self._rules.ejection_s
            engine.last_error = f"it keeps refusing uploads, the last with {status}"
            self._budget.grant(engine.in_flight, now)
            self._registry.refresh(engine, now)
        return vote, needed

    def _others_may_serve(self, engine: Engine) -> bool:
        """Whether each of the engine's models has another engine that serves well."""
        return all(
            any(other is not engine and self.is_witness(other) for other in pool.members.values())
            for pool in engine.pools
        )

    def _others_serve(self, engine: Engine, since: float) -> bool:
        """Whether at least half of the other engines serve, and one has answered since `since`.

        After many refusals an answer is not required: an engine that refuses at once is idle, and
        gets every upload that arrives before another engine has answered anything.
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
        """Record that engines have refused an upload with good reason."""
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
        """Record that another engine has served what this engine refused.

        Args:
            engine: The engine.
            pool: The model's pool.
            status: The status with which the engine refused.
            now: Monotonic seconds.
            lacks_model: Whether it said that it does not have the model.
        """
        pool.agreements.forget(status)
        if lacks_model:
            self._withhold(engine, pool.model, now)
        # `refused` has counted it already, and `blame` will count it again.
        engine.record.count = max(0, engine.record.count - 1)
        engine.record.explained()

    # Models that an engine lists but does not have.

    def _withhold(self, engine: Engine, model: str, now: float) -> None:
        until = now + self._rules.withheld_s
        engine.withheld[model] = until
        engine.last_error = f"it lists the model `{model}` but answers 404 for it"
        if model in engine.models:
            models = tuple(name for name in engine.models if name != model)
            self._registry.set_models(engine, models, now)

    def without_withheld(
        self, engine: Engine, models: tuple[str, ...], now: float
    ) -> tuple[str, ...]:
        """Return an engine's models without those that it recently answered with 404."""
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
        """Give an engine the rest that it asked for, then try it with one upload."""
        engine.failed_probes = 0
        if now < engine.rests_until or charge.started_at < engine.rests_until:
            # Sent before it asked; it repeats the same request.
            return
        engine.rests += 1
        lasts_s = rest_s(asked_s, engine.rests, self._rules.longest_rest_s)
        engine.rests_until = now + lasts_s
        engine.is_on_trial = True
        engine.trial_at = max(engine.trial_at, engine.rests_until)
        engine.last_error = f"it asked for a pause of {lasts_s:.0f} s"
        self._registry.refresh(engine, now)
