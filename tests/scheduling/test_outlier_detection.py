import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, add_ready, empty_registry, ready_registry, spec, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.changes import Appeared
from vllm_router.scheduling.engine import Engine, EngineId, EngineState, ProbeResult, Transition
from vllm_router.scheduling.engine_states import EngineEvent
from vllm_router.scheduling.outlier_detection import OutlierDetection, is_failure
from vllm_router.scheduling.registry import Registry
from vllm_router.scheduling.retry import RetryBudget
from vllm_router.scheduling.work import Charge, Outcome, OutcomeKind

FAILURES = [
    OutcomeKind.UNREACHABLE,
    OutcomeKind.RESET,
    OutcomeKind.BAD_STATUS,
    OutcomeKind.DENIED,
    OutcomeKind.TIMEOUT,
]


class Court:
    """Ready engines, a judge of them, and words for what happens."""

    def __init__(self, count: int) -> None:
        self.registry, self.engines = ready_registry(count)
        self.budget = RetryBudget(share=0.0, floor_per_s=0.0)
        self.judge = OutlierDetection(self.registry, self.budget)
        self.now = 100.0

    def fail(
        self,
        engine: Engine,
        times: int = 1,
        kind: OutcomeKind = OutcomeKind.RESET,
        started_at: float | None = None,
    ) -> tuple[Transition, ...]:
        began_at = self.now if started_at is None else started_at
        return tuple(
            move
            for _ in range(times)
            for move in self.judge.answered_badly(engine, began_at, Outcome(kind), self.now)
        )

    def charge(self, engine: Engine) -> Charge:
        return load.charge(engine, ticket(), 1, self.now)

    def answer(self, engine: Engine, charge: Charge | None = None) -> tuple[Transition, ...]:
        charge = charge or self.charge(engine)
        load.release(charge, engine, self.now)
        return self.judge.answered_well(engine, charge, self.now)

    def answer_late(self, engine: Engine, times: int = 1) -> tuple[Transition, ...]:
        moves: tuple[Transition, ...] = ()
        for _ in range(times):
            charge = self.charge(engine)
            load.release(charge, engine, self.now)
            moves += self.judge.answered_late(engine, charge, 40.0, self.now)
        return moves

    def probe(
        self, engine: Engine, *, ok: bool = True, is_timeout: bool = False, seconds: float = 0.1
    ) -> tuple[Transition, ...]:
        result = ProbeResult(ok, seconds, self.now, None if ok else "refused", is_timeout)
        return self.judge.probed(engine, result)


def ends(moves: tuple[Transition, ...]) -> list[str]:
    return [move.after.value for move in moves]


@pytest.mark.parametrize("kind", OutcomeKind)
def test_only_what_the_engine_did_speaks_against_it(kind: OutcomeKind) -> None:
    assert is_failure(kind) == (kind in FAILURES)


# Live answers.


@pytest.mark.parametrize("kind", FAILURES)
def test_three_bad_answers_in_a_row_take_an_engine_out(kind: OutcomeKind) -> None:
    court = Court(2)
    engine = court.engines[0]
    assert court.fail(engine, 2, kind) == ()
    (move,) = court.fail(engine, 1, kind)
    assert (move.before, move.after) == (EngineState.READY, EngineState.EJECTED)
    assert move.why == f"3 bad answers in a row, the last: {kind.value}"
    assert engine.ejected_until == court.now + 1.0
    assert engine.cap == 0.0


def test_a_good_answer_between_bad_ones_ends_the_row() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 2)
    court.answer(engine)
    assert court.fail(engine, 2) == ()


def test_a_passed_probe_does_not_clear_bad_answers() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 2)
    court.probe(engine)
    assert ends(court.fail(engine)) == ["ejected"]


def test_the_last_error_is_what_the_outcome_says_or_else_its_kind() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine)
    assert engine.last_error == "reset"
    detailed = Outcome(OutcomeKind.BAD_STATUS, detail="It answered 503.")
    court.judge.answered_badly(engine, court.now, detailed, court.now)
    assert engine.last_error == "It answered 503."


def test_answers_sent_before_an_engine_was_taken_out_do_not_count_again() -> None:
    court = Court(4)
    engine = court.engines[0]
    court.fail(engine, 3)
    until = engine.ejected_until
    court.now += 0.5
    assert court.fail(engine, 50, started_at=court.now - 10.0) == ()
    assert (engine.ejections, engine.ejected_until) == (1, until)


def test_an_engine_that_takes_no_work_is_not_ejected_for_what_it_still_had() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.registry.move(engine, EngineEvent.DRAIN, court.now)
    court.now += 1.0
    assert court.fail(engine, 5) == ()
    assert engine.state is EngineState.DRAINING


def test_work_that_an_ejection_cuts_off_is_granted_its_repeats() -> None:
    court = Court(2)
    engine = court.engines[0]
    for _ in range(7):
        court.charge(engine)
    court.fail(engine, 3)
    assert [court.budget.spend(court.now) for _ in range(8)] == [True] * 7 + [False]


def test_no_more_than_half_of_the_engines_are_ejected_and_the_rest_are_tried_one_by_one() -> None:
    court = Court(4)
    for engine in court.engines:
        court.fail(engine, 3)
    states = [engine.state for engine in court.engines]
    assert states == [EngineState.EJECTED] * 2 + [EngineState.READY] * 2
    for engine in court.engines[2:]:
        assert engine.is_on_trial
        assert engine.cap == 0.0
        court.registry.refresh(engine, court.now + 1.0)
        assert engine.cap == 1.0


def test_the_only_engine_is_never_ejected_by_its_answers() -> None:
    court = Court(1)
    (engine,) = court.engines
    court.fail(engine, 100)
    assert engine.state is EngineState.READY
    assert engine.is_on_trial


def test_an_engine_is_not_ejected_when_any_of_its_models_would_lose_too_many() -> None:
    registry = empty_registry()
    both = add_ready(registry, spec("both", models=("m", "rare")))
    for number in range(3):
        add_ready(registry, spec(f"e{number}"))
    judge = OutlierDetection(registry, RetryBudget())
    for _ in range(3):
        assert judge.answered_badly(both, 5.0, Outcome(OutcomeKind.RESET), 5.0) == ()
    assert both.state is EngineState.READY


def test_a_good_answer_ends_the_trial_of_an_engine_that_may_not_be_ejected() -> None:
    court = Court(1)
    (engine,) = court.engines
    court.fail(engine, 3)
    old = court.charge(engine)
    court.now += 1.0
    assert court.answer(engine, old) == ()
    assert engine.is_on_trial, "that was sent before the trial"
    court.answer(engine)
    assert not engine.is_on_trial
    assert engine.cap > 1.0


# The way back.


def back_on_trial(court: Court, engine: Engine) -> None:
    """Let the ejection's time pass and a probe too."""
    court.now = engine.ejected_until - 0.1
    court.probe(engine)
    court.now = engine.ejected_until
    court.registry.run_timers(court.now)


def test_a_probe_before_its_time_does_not_bring_an_ejected_engine_back() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 3)
    assert court.probe(engine) == ()
    assert engine.state is EngineState.EJECTED


def test_a_probe_after_its_time_does() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 3)
    court.now = engine.ejected_until
    (move,) = court.probe(engine)
    assert move.after is EngineState.READY
    assert move.why == "a probe passed after ejection"
    assert engine.is_on_trial
    assert engine.cap == 1.0


def test_a_good_answer_on_trial_brings_an_ejected_engine_back() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 3)
    back_on_trial(court, engine)
    assert engine.cap == 1.0
    (move,) = court.answer(engine)
    assert (move.before, move.after) == (EngineState.EJECTED, EngineState.READY)
    assert not engine.is_on_trial


def test_one_bad_answer_on_trial_takes_it_out_for_twice_as_long() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 3)
    for seconds in (2.0, 4.0, 8.0):
        back_on_trial(court, engine)
        assert court.fail(engine) == ()
        assert engine.ejected_until == court.now + seconds
        assert engine.cap == 0.0


def test_ejections_are_forgiven_after_a_long_good_time() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 3)
    court.now = engine.ejected_until
    court.probe(engine)
    court.answer(engine)
    assert engine.ejections == 1
    court.now += 300.0
    court.answer(engine)
    assert engine.ejections == 0


# Answers that come far too late.


def with_usual_latency(court: Court) -> Engine:
    engine = court.engines[0]
    engine.curve.answers = 100.0
    return engine


def test_an_answer_far_over_the_engines_and_the_fleets_usual_is_far_off() -> None:
    court = Court(3)
    engine = with_usual_latency(court)
    usual_s = engine.curve.window_s(10.0)
    assert court.judge.is_far_off(engine, 10.0, 11.0 * usual_s)
    assert not court.judge.is_far_off(engine, 10.0, 9.0 * usual_s)


def test_an_engine_of_which_little_is_known_is_not_judged_by_its_latency() -> None:
    court = Court(3)
    assert not court.judge.is_far_off(court.engines[0], 1.0, 1000.0)


def test_no_quick_answer_is_far_off_however_quick_the_others_are() -> None:
    court = Court(3)
    engine = with_usual_latency(court)
    engine.curve.rescale(0.001)
    engine.curve.answers = 100.0
    assert not court.judge.is_far_off(engine, 1.0, 2.9)


def test_when_all_engines_are_slow_none_is_far_off() -> None:
    court = Court(3)
    engine = with_usual_latency(court)
    pool = court.registry.pools[MODEL]
    pool.peak_per_s /= 50.0
    assert not court.judge.is_far_off(engine, 10.0, 20.0 * engine.curve.window_s(10.0))


def test_an_engine_without_others_to_compare_with_is_not_far_off() -> None:
    court = Court(1)
    assert not court.judge.is_far_off(with_usual_latency(court), 1.0, 1000.0)


def test_a_usual_answer_ends_the_row_of_late_ones() -> None:
    court = Court(3)
    engine = with_usual_latency(court)
    court.answer_late(engine, 4)
    court.judge.is_far_off(engine, 1.0, 0.1)
    assert court.answer_late(engine, 4) == ()


def test_five_answers_far_too_late_take_an_engine_out() -> None:
    court = Court(2)
    engine = with_usual_latency(court)
    assert court.answer_late(engine, 4) == ()
    (move,) = court.answer_late(engine)
    assert move.after is EngineState.EJECTED
    assert move.why == "5 answers in a row took far too long, the last 40.0 s"
    assert engine.last_error == "an answer took 40.0 s"


def test_a_late_answer_on_trial_is_still_an_answer() -> None:
    court = Court(2)
    engine = with_usual_latency(court)
    court.fail(engine, 3)
    back_on_trial(court, engine)
    engine.slow_answers = 10
    assert ends(court.answer_late(engine)) == ["ready"]


# Probes.


def test_the_first_probe_decides_whether_a_new_engine_is_ready() -> None:
    registry = empty_registry()
    registry.apply(Appeared(spec("good")), 1.0)
    registry.apply(Appeared(spec("bad")), 1.0)
    judge = OutlierDetection(registry, RetryBudget())
    good, bad = (registry.engines[EngineId(name)] for name in ("good", "bad"))
    assert ends(judge.probed(good, ProbeResult(True, 0.1, 2.0))) == ["ready"]
    (move,) = judge.probed(bad, ProbeResult(False, 0.1, 2.0))
    assert move.after is EngineState.PROBING
    assert move.why == "probe failed: no reason given"


def test_three_failed_probes_in_a_row_take_a_ready_engine_out() -> None:
    court = Court(1)
    (engine,) = court.engines
    assert court.probe(engine, ok=False) == court.probe(engine, ok=False) == ()
    assert engine.cap > 0.0
    (move,) = court.probe(engine, ok=False)
    assert move.after is EngineState.PROBING
    assert move.why == "3 consecutive failures: probe failed: refused"
    assert engine.last_error == "refused"
    assert ends(court.probe(engine)) == ["ready"]


def test_a_passed_probe_between_failed_ones_ends_the_row() -> None:
    court = Court(1)
    (engine,) = court.engines
    for _ in range(5):
        court.probe(engine, ok=False)
        court.probe(engine, ok=False)
        court.probe(engine)
    assert engine.state is EngineState.READY


def test_a_good_answer_between_failed_probes_ends_the_row_too() -> None:
    court = Court(1)
    (engine,) = court.engines
    court.probe(engine, ok=False)
    court.probe(engine, ok=False)
    court.answer(engine)
    assert court.probe(engine, ok=False) == ()


def test_a_probe_that_times_out_on_a_busy_engine_does_not_count() -> None:
    court = Court(1)
    (engine,) = court.engines
    court.answer(engine)
    court.now += 14.0
    for _ in range(10):
        assert court.probe(engine, ok=False, is_timeout=True, seconds=5.0) == ()
    assert engine.failed_probes == 0
    assert engine.last_error is None


def test_a_probe_that_is_refused_counts_however_busy_the_engine_was() -> None:
    court = Court(1)
    (engine,) = court.engines
    court.answer(engine)
    court.probe(engine, ok=False)
    assert engine.failed_probes == 1


def test_a_probe_that_times_out_counts_when_no_client_was_answered_of_late() -> None:
    court = Court(1)
    (engine,) = court.engines
    court.probe(engine, ok=False, is_timeout=True)
    assert engine.failed_probes == 1
    court.answer(engine)
    court.now += 15.2
    court.probe(engine, ok=False, is_timeout=True, seconds=5.0)
    assert engine.failed_probes == 1, "the answer ended the row, and this began one"


def test_an_engine_that_was_in_service_may_return_for_a_minute() -> None:
    court = Court(2)
    engine = court.engines[0]
    assert not court.judge.may_return(engine, court.now), "it is here"
    court.fail(engine, 3)
    assert court.judge.may_return(engine, court.now)
    for _ in range(3):
        court.probe(engine, ok=False)
    assert engine.state is EngineState.PROBING
    assert court.judge.may_return(engine, court.now + 59.9)
    assert not court.judge.may_return(engine, court.now + 60.0)


@pytest.mark.parametrize("is_timeout", [False, True])
def test_an_engine_that_is_new_may_come_unless_it_refuses(*, is_timeout: bool) -> None:
    registry = empty_registry()
    registry.apply(Appeared(spec("new")), 10.0)
    new = registry.engines[EngineId("new")]
    judge = OutlierDetection(registry, RetryBudget())
    assert judge.may_return(new, 20.0), "it has not been asked yet"
    judge.probed(new, ProbeResult(False, 10.0, 20.0, "no", is_timeout))
    assert judge.may_return(new, 20.0) == is_timeout
    assert not judge.may_return(new, 70.0)


@pytest.mark.parametrize("event", [EngineEvent.FELL_ASLEEP, EngineEvent.DRAIN])
def test_an_engine_its_operator_took_out_may_return_once_it_is_called_back(
    event: EngineEvent,
) -> None:
    court = Court(1)
    (engine,) = court.engines
    court.registry.move(engine, event, court.now)
    assert not court.judge.may_return(engine, court.now)
    court.now += 3600.0
    back = EngineEvent.WOKE if event is EngineEvent.FELL_ASLEEP else EngineEvent.RESUME
    court.registry.move(engine, back, court.now)
    assert court.judge.may_return(engine, court.now)


def test_failed_probes_take_an_ejected_engine_to_probing() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.fail(engine, 3)
    for _ in range(2):
        court.probe(engine, ok=False)
    assert ends(court.probe(engine, ok=False)) == ["probing"]


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["well", "badly", "late", "probe", "no probe", "silence"]),
        st.floats(0, 5),
    ),
    max_size=60,
)


def ejected(registry: Registry) -> int:
    return sum(each.state is EngineState.EJECTED for each in registry.engines.values())


@given(STEPS)
def test_never_more_than_half_are_ejected_and_ready_engines_get_work_again_in_time(
    steps: list[tuple[int, str, float]],
) -> None:
    court = Court(4)
    for number, what, pause_s in steps:
        court.now += pause_s
        court.registry.run_timers(court.now)
        engine = court.engines[number]
        match what:
            case "well":
                court.answer(engine)
            case "badly":
                court.fail(engine)
            case "late":
                court.answer_late(engine)
            case _:
                court.probe(engine, ok=what == "probe", is_timeout=what == "silence")
        assert ejected(court.registry) <= 2
    # All is well from now on: every engine is back within its longest ejection.
    for _ in range(2):
        court.now += 301.0
        court.registry.run_timers(court.now)
        for engine in court.engines:
            court.probe(engine)
            assert engine.state is EngineState.READY
            assert engine.cap >= 1.0
            court.answer(engine)
            assert not engine.is_on_trial


def known(engine: Engine) -> None:
    """Let an engine show how quick it is."""
    for number in range(40):
        engine.curve.learn(1.0, 0.4, 50.0 + number)


def test_being_overtaken_three_times_without_an_answer_takes_a_known_engine_out() -> None:
    court = Court(2)
    known(court.engines[0])
    charges = [court.charge(court.engines[0]) for _ in range(3)]
    court.now += 4.0
    moves = [
        move
        for charge in charges
        for move in court.judge.overtaken(court.engines[0], charge, 4.0, court.now)
    ]
    assert [move.after for move in moves] == [EngineState.EJECTED]
    assert court.engines[0].last_error == "no answer for 4.0 s; another engine answered first"


def test_being_overtaken_says_nothing_of_a_cold_engine_nor_of_one_that_answers_others() -> None:
    court = Court(4)
    cold, slow = court.engines[:2]
    known(slow)
    for engine in (cold, slow):
        charges = [court.charge(engine) for _ in range(5)]
        if engine is slow:
            court.answer(slow)
        court.now += 4.0
        for charge in charges:
            assert court.judge.overtaken(engine, charge, 4.0, court.now) == ()
        assert not engine.failed_answers


def test_one_failed_probe_takes_a_suspected_engine_out_and_its_work_may_be_repeated() -> None:
    court = Court(2)
    engine = court.engines[0]
    court.answer(engine)
    court.charge(engine)
    engine.suspected_at = court.now
    result = ProbeResult(False, 0.1, court.now, "no answer", is_timeout=True)
    [move] = court.judge.probed(engine, result)
    assert move.after is EngineState.PROBING
    assert court.budget.spend(court.now)
    assert not court.budget.spend(court.now)
    # It starts anew when it comes back.
    assert engine.suspected_at is None


def test_suspicion_takes_out_no_more_than_half_by_a_single_probe() -> None:
    court = Court(3)
    for engine in court.engines:
        engine.suspected_at = court.now
        court.judge.probed(engine, ProbeResult(False, 0.1, court.now, "no", is_timeout=True))
    states = [engine.state for engine in court.engines]
    assert states.count(EngineState.PROBING) == 1


@pytest.mark.parametrize("by_answer", [True, False])
def test_an_answer_or_a_passed_probe_clears_a_suspicion(*, by_answer: bool) -> None:
    court = Court(2)
    engine = court.engines[0]
    engine.suspected_at = court.now
    if by_answer:
        court.answer(engine)
    else:
        court.judge.probed(engine, ProbeResult(True, 0.1, court.now))
    assert engine.suspected_at is None
