import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, add_ready, empty_registry, ready_registry, spec, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.changes import Appeared, Change, Listing, Withdrawn
from vllm_router.scheduling.engine import Engine, EngineId, EngineState, ProbeResult, Transition
from vllm_router.scheduling.engine_states import EngineEvent
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.registry import Registry

E0 = EngineId("e0")
NAMES = ["a", "b", "c", "d"]
SPECS = st.builds(
    spec,
    st.sampled_from(NAMES),
    st.sampled_from([None, (), ("m",), ("n",), ("m", "n")]),
    st.sampled_from([1.0, 2.5]),
)
CHANGES = st.one_of(
    st.builds(Appeared, SPECS),
    st.builds(Withdrawn, st.sampled_from(NAMES).map(EngineId)),
    st.builds(
        Listing,
        st.lists(SPECS, max_size=4, unique_by=lambda each: each.engine_id).map(tuple),
    ),
)


def steps(moves: tuple[Transition, ...]) -> list[tuple[str, str, str]]:
    return [(str(move.engine_id), move.before.value, move.after.value) for move in moves]


def eject(registry: Registry, engine: Engine, now: float, seconds: float) -> None:
    engine.ejected_until = now + seconds
    registry.move(engine, EngineEvent.ANSWERS_FAILED, now)


# What discovery says.


def test_a_new_engine_is_discovered_and_takes_nothing() -> None:
    registry = empty_registry()
    assert registry.apply(Appeared(spec("e0")), 5.0) == ()
    assert registry.engines[E0].state is EngineState.DISCOVERED
    assert not registry.pools[MODEL].with_room


def test_what_a_listing_does_not_name_is_withdrawn() -> None:
    registry, _ = ready_registry(3)
    moves = registry.apply(Listing((spec("e1"), spec("new"))), 1.0)
    assert list(registry.engines) == ["e1", "new"]
    assert steps(moves) == [
        ("e0", "ready", "draining"),
        ("e0", "draining", "gone"),
        ("e2", "ready", "draining"),
        ("e2", "draining", "gone"),
    ]


def test_a_listing_that_says_the_same_again_changes_nothing() -> None:
    registry, (engine,) = ready_registry(1)
    assert registry.apply(Listing((spec("e0"),)), 1.0) == ()
    assert registry.engines[E0] is engine
    assert engine.state is EngineState.READY


def test_a_withdrawn_engine_stays_until_its_work_is_done() -> None:
    registry, (engine,) = ready_registry(1)
    charge = load.charge(engine, ticket(), 1, 1.0)
    assert steps(registry.apply(Withdrawn(E0), 2.0)) == [("e0", "ready", "draining")]
    assert registry.apply(Withdrawn(E0), 2.0) == ()
    assert not registry.pools[MODEL].with_room
    assert registry.bury(engine, 3.0) == ()
    load.release(charge, engine, 4.0)
    assert steps(registry.bury(engine, 4.0)) == [("e0", "draining", "gone")]
    assert registry.engines == {}
    assert registry.pools == {}


def test_an_engine_that_is_listed_again_while_it_drains_is_probed_and_keeps_its_work() -> None:
    registry, (engine,) = ready_registry(1)
    load.charge(engine, ticket(), 1, 1.0)
    registry.apply(Withdrawn(E0), 2.0)
    assert steps(registry.apply(Appeared(spec("e0")), 3.0)) == [("e0", "draining", "probing")]
    assert engine.in_flight == 1
    assert registry.bury(engine, 3.0) == (), "it is not withdrawn any more"


def test_an_engine_drained_by_its_operator_does_not_come_back_by_being_listed() -> None:
    registry, (engine,) = ready_registry(1)
    registry.move(engine, EngineEvent.DRAIN, 1.0)
    assert registry.apply(Listing((spec("e0"),)), 2.0) == ()
    assert engine.state is EngineState.DRAINING


def test_a_new_description_is_taken_over_and_what_was_learned_survives() -> None:
    registry, (engine,) = ready_registry(1)
    curve = engine.curve
    registry.apply(Appeared(spec("e0", models=("m", "n"), weight=3.0)), 1.0)
    assert engine.spec.weight == 3.0
    assert engine.curve is curve
    assert engine.state is EngineState.READY
    assert set(registry.pools) == {"m", "n"}


def test_a_description_without_models_leaves_those_that_the_engine_named() -> None:
    registry = empty_registry()
    engine = add_ready(registry, spec("e0", models=None))
    registry.set_models(engine, ("m",), 1.0)
    registry.apply(Appeared(spec("e0", models=None, weight=2.0)), 2.0)
    assert engine.models == ("m",)


def test_who_was_never_there_cannot_be_withdrawn() -> None:
    assert empty_registry().apply(Withdrawn(E0), 1.0) == ()


# Pools.


def test_an_engine_leaves_the_pools_of_models_that_it_serves_no_more() -> None:
    registry, (one, other) = ready_registry(2)
    registry.set_models(one, ("n",), 1.0)
    assert list(registry.pools["m"].members) == ["e1"]
    assert registry.pools["m"].peak_per_s == pytest.approx(other.curve.peak_per_s)
    assert list(registry.pools["n"].members) == ["e0"]
    assert registry.pools["n"].with_room


def test_a_model_named_twice_is_one_pool() -> None:
    registry, (engine,) = ready_registry(1)
    registry.set_models(engine, ("m", "m"), 1.0)
    assert registry.pools["m"].states[EngineState.READY] == 1
    assert len(engine.pools) == 1


def test_a_pool_without_members_stays_while_work_waits_in_it() -> None:
    registry, (engine,) = ready_registry(1)
    waiting = ticket()
    registry.pools[MODEL].queue.add(waiting)
    registry.set_models(engine, (), 1.0)
    assert list(registry.pools) == [MODEL]
    registry.set_models(engine, (MODEL,), 2.0)
    assert registry.pools[MODEL].queue.short.head() is waiting


def test_only_engines_in_service_count_for_the_speed_of_a_pool() -> None:
    registry, (engine, other) = ready_registry(2)
    pool = registry.pools[MODEL]
    assert pool.peak_per_s == pytest.approx(2 * engine.curve.peak_per_s)
    registry.move(engine, EngineEvent.DRAIN, 1.0)
    assert pool.peak_per_s == pytest.approx(other.curve.peak_per_s)
    registry.move(other, EngineEvent.DRAIN, 1.0)
    assert (pool.peak_per_s, pool.half_at) == (0.0, 0.0), "without rounding errors"


def test_a_curve_that_was_fitted_anew_counts_for_the_pool_while_in_service() -> None:
    registry, (engine, other) = ready_registry(2)
    pool = registry.pools[MODEL]
    for each in (engine, other):
        each.curve.rescale(0.5)
        each.curve.seen = 40
        registry.relearned(each, 1.0, is_at_once=True)
        assert each.next_window_s == pytest.approx(each.curve.window_s(1.0))
    assert pool.peak_per_s == pytest.approx(engine.curve.peak_per_s + other.curve.peak_per_s)
    registry.move(engine, EngineEvent.DRAIN, 1.0)
    before = pool.peak_per_s
    engine.curve.rescale(0.5)
    registry.relearned(engine, 2.0, is_at_once=True)
    assert pool.peak_per_s == before


# States and room.


def test_an_event_without_an_entry_in_the_table_changes_nothing() -> None:
    registry, (engine,) = ready_registry(1)
    assert registry.move(engine, EngineEvent.WOKE, 1.0) == ()
    assert engine.state is EngineState.READY


def test_a_transition_says_why_or_else_what_happened() -> None:
    registry, (engine,) = ready_registry(1)
    (move,) = registry.move(engine, EngineEvent.DRAIN, 1.0)
    assert move.why == "drained by the operator"
    (move,) = registry.move(engine, EngineEvent.RESUME, 2.0, "asked for")
    assert move.why == "asked for"


def test_a_fleet_that_starts_takes_all_it_can_at_once() -> None:
    registry, (engine,) = ready_registry(1, FleetSettings(max_windows=20))
    assert engine.cap == 20.0
    assert registry.next_timer() is None


def test_an_engine_that_comes_back_is_tried_with_one_request_and_then_warms_up() -> None:
    registry, (engine,) = ready_registry(1, FleetSettings(max_windows=20))
    registry.move(engine, EngineEvent.PROBES_FAILED, 50.0)
    assert engine.cap == 0.0
    registry.move(engine, EngineEvent.PROBE_PASSED, 60.0)
    assert engine.is_on_trial
    assert engine.cap == 1.0
    engine.is_on_trial = False
    registry.refresh(engine, 62.0)
    assert engine.cap == pytest.approx(4.0)
    caps = []
    while (at := registry.next_timer()) is not None:
        registry.run_timers(at)
        caps.append(engine.cap)
    assert caps == sorted(caps)
    assert caps[-1] == 20.0, "time alone brings it back to its limit"
    assert engine.is_warm


def test_an_engine_that_pauses_between_trials_is_looked_at_again_when_the_pause_ends() -> None:
    registry, (engine,) = ready_registry(1)
    engine.is_on_trial, engine.trial_at = True, 12.0
    registry.refresh(engine, 11.0)
    assert (engine.cap, registry.next_timer()) == (0.0, 12.0)
    registry.run_timers(11.9)
    assert engine.cap == 0.0
    registry.run_timers(12.0)
    assert engine.cap == 1.0


def test_an_engine_that_asked_for_a_rest_is_not_tried_before_its_end() -> None:
    registry, (engine,) = ready_registry(1)
    engine.rests, engine.rests_until = 1, 40.0
    engine.is_on_trial, engine.trial_at = True, 12.0
    registry.refresh(engine, 13.0)
    assert (engine.cap, registry.next_timer()) == (0.0, 40.0)
    registry.run_timers(40.0)
    assert engine.cap == 1.0


def test_an_engine_that_was_away_does_not_go_on_with_its_rest() -> None:
    registry, (engine,) = ready_registry(1)
    engine.rests, engine.rests_until = 5, 40.0
    registry.move(engine, EngineEvent.PROBES_FAILED, 12.0)
    registry.move(engine, EngineEvent.PROBE_PASSED, 13.0)
    assert (engine.cap, engine.rests) == (1.0, 0)


def test_an_ejected_engine_is_tried_after_its_time_once_a_probe_has_passed() -> None:
    registry, (engine,) = ready_registry(1)
    eject(registry, engine, 50.0, 4.0)
    registry.refresh(engine, 60.0)
    assert engine.cap == 0.0, "no probe has passed since"
    engine.last_probe = ProbeResult(False, 0.1, 60.5, "refused")
    registry.refresh(engine, 60.5)
    assert engine.cap == 0.0
    engine.last_probe = ProbeResult(True, 0.1, 61.0)
    registry.refresh(engine, 61.0)
    assert engine.cap == 1.0
    assert engine.is_on_trial


def test_an_ejected_engine_whose_probe_passes_early_waits_for_its_time() -> None:
    registry, (engine,) = ready_registry(1)
    eject(registry, engine, 50.0, 4.0)
    engine.last_probe = ProbeResult(True, 0.1, 51.0)
    registry.refresh(engine, 51.0)
    assert (engine.cap, registry.next_timer()) == (0.0, 54.0)
    registry.run_timers(54.0)
    assert engine.cap == 1.0


def test_an_engine_that_was_never_probed_is_not_tried() -> None:
    registry, (engine,) = ready_registry(1)
    engine.last_probe = None
    eject(registry, engine, 50.0, 1.0)
    registry.refresh(engine, 99.0)
    assert engine.cap == 0.0


def test_an_engine_kept_for_large_work_takes_no_other() -> None:
    registry, (engine,) = ready_registry(1)
    engine.held_for = ticket(windows=300)
    registry.refresh(engine, 1.0)
    assert engine.cap == 0.0
    assert not registry.pools[MODEL].with_room


def test_an_engine_is_looked_at_once_however_many_timers_it_has() -> None:
    registry, (engine, other) = ready_registry(2)
    for at in (3.0, 1.0, 2.0, 9.0):
        registry.wake_at(at, engine)
    registry.wake_at(4.0, other)
    assert registry.next_timer() == 1.0
    registry.run_timers(5.0)
    assert registry.next_timer() == 9.0


def check_pools(registry: Registry) -> None:
    for engine in registry.engines.values():
        assert engine.state is not EngineState.GONE
        assert {pool.model for pool in engine.pools} == set(engine.models)
    for model, pool in registry.pools.items():
        members = [each for each in registry.engines.values() if model in each.models]
        assert sorted(pool.members) == sorted(each.engine_id for each in members)
        ready = [each for each in members if each.state is EngineState.READY]
        for state in EngineState:
            assert pool.states[state] == sum(each.state is state for each in members)
        for total, figure in (
            (pool.peak_per_s, sum(each.curve.peak_per_s for each in ready)),
            (pool.half_at, sum(each.curve.half_at for each in ready)),
            (pool.load, sum(each.load for each in members)),
        ):
            assert math.isclose(total, figure, rel_tol=1e-9, abs_tol=1e-6)
        open_ones = {each.engine_id for each in pool.with_room}
        assert open_ones == {
            each.engine_id for each in members if each.windows_in_flight < each.cap
        }


@given(
    st.lists(CHANGES | st.tuples(st.sampled_from(NAMES), st.sampled_from(EngineEvent)), max_size=30)
)
def test_pools_are_what_the_engines_are_after_any_changes_and_events(
    happenings: list[Change | tuple[str, EngineEvent]],
) -> None:
    registry = empty_registry()
    now = 0.0
    for happening in happenings:
        now += 1.0
        if isinstance(happening, tuple):
            name, event = happening
            engine = registry.engines.get(EngineId(name))
            if engine is not None and event is not EngineEvent.EMPTIED:
                registry.move(engine, event, now)
        else:
            registry.apply(happening, now)
        check_pools(registry)


@given(st.lists(CHANGES, max_size=20), CHANGES)
def test_a_change_said_twice_is_a_change_said_once(history: list[Change], last: Change) -> None:
    registry = empty_registry()
    for change in (*history, last):
        registry.apply(change, 1.0)
    assert registry.apply(last, 1.0) == ()
