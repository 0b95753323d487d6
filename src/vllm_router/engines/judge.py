"""What answers and probes say about an engine, and what follows from it."""

from typing import Final

from vllm_router.engines.engine import Engine, EngineState, ProbeResult, Transition
from vllm_router.engines.registry import Registry
from vllm_router.engines.states import OUT, Event
from vllm_router.engines.work import Charge, Outcome, OutcomeKind
from vllm_router.policy.retry import RetryBudget

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


def is_failure(kind: OutcomeKind) -> bool:
    """Whether an outcome speaks against the engine."""
    return kind in _FAILURES


class Judge:
    """Counts the good and the bad of each engine and moves it when a streak is long enough.

    Args:
        registry: Where the engines are.
        budget: Is granted a repeat for each request that an ejection cuts off.
    """

    def __init__(self, registry: Registry, budget: RetryBudget) -> None:
        self._registry = registry
        self._rules = registry.settings.health
        self._budget = budget

    def probed(self, engine: Engine, result: ProbeResult) -> tuple[Transition, ...]:
        """Take the result of a probe in."""
        now = result.at
        if result.is_ok:
            return self._probe_passed(engine, result)
        began_at = now - result.seconds - self._rules.busy_grace_s
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
        if now >= engine.ejected_until:
            return self._registry.move(engine, Event.PROVED, now, "a probe passed after its time")
        self._registry.refresh(engine, now)
        return ()

    def _clear(self, engine: Engine, now: float) -> None:
        if engine.suspected_at is not None:
            engine.suspected_at = None
            self._registry.refresh(engine, now)

    def may_return(self, engine: Engine, now: float) -> bool:
        """Whether an engine that is out may be ready again any moment, or for the first time.

        One that refuses its first probe is not there yet; one that is slow to answer it is.
        """
        if engine.state not in OUT or now - engine.out_since >= self._rules.comeback_s:
            return False
        probe = engine.last_probe
        return engine.ready_since is not None or probe is None or probe.is_timeout

    def answered_well(self, engine: Engine, charge: Charge, now: float) -> tuple[Transition, ...]:
        """Take an answer in that shows the engine works."""
        engine.last_ok_at = now
        engine.failed_probes = engine.failed_answers = 0
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
        calls, and is only slow; and how slow a cold one may be is not known.
        """
        is_silent = engine.last_ok_at is None or engine.last_ok_at < charge.started_at
        rules = self._registry.settings.suspicion
        if not is_silent or not rules.is_known(engine.curve.answers):
            return ()
        detail = f"no answer for {seconds:.1f} s, and another engine gave it"
        outcome = Outcome(OutcomeKind.OVERTAKEN, None, None, detail)
        return self.answered_badly(engine, charge.started_at, outcome, now)

    def answered_badly(
        self, engine: Engine, started_at: float, outcome: Outcome, now: float
    ) -> tuple[Transition, ...]:
        """Take a failed answer in."""
        engine.last_error = outcome.detail or outcome.kind.value
        if started_at < engine.out_since or engine.state not in (
            EngineState.READY,
            EngineState.EJECTED,
        ):
            # Sent before it was taken out: what it says has already been acted on.
            return ()
        engine.failed_answers += 1
        strikes = 1 if engine.is_on_trial else self._rules.strikes
        if engine.failed_answers < strikes:
            return ()
        why = f"{engine.failed_answers} bad answers in a row, the last: {engine.last_error}"
        return self._take_out(engine, why, now)

    def _take_out(self, engine: Engine, why: str, now: float) -> tuple[Transition, ...]:
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
        engine.ejections += 1
        engine.ejected_until = now + self._rules.ejection_for(engine.ejections)
        engine.trial_at = engine.ejected_until
        if engine.state is EngineState.EJECTED:
            engine.out_since = now
            self._registry.refresh(engine, now)
            return ()
        self._budget.grant(engine.in_flight, now)
        return self._registry.move(engine, Event.ANSWERS_FAILED, now, why)
