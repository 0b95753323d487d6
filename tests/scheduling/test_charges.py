import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, lone_engine, ready_registry, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work import Charge, Death, Ticket

# Seconds that pass, then the windows that are charged, or None for a release.
STEPS = st.lists(
    st.tuples(st.floats(0, 30), st.none() | st.integers(1, 40)), min_size=1, max_size=40
)


def test_a_charge_puts_its_windows_on_the_engine_and_its_pools() -> None:
    registry, (engine,) = ready_registry(1)
    engine.elsewhere = 2.0
    engine.load = registry.pools[MODEL].load = 2.0
    charge = load.charge(engine, ticket(windows=5), turn=9, now=1.0)
    assert (engine.in_flight, engine.windows_in_flight, engine.audio_s_in_flight) == (1, 5, 150.0)
    assert engine.load == registry.pools[MODEL].load == 7.0
    assert engine.turn == 9
    assert (charge.engine, charge.windows, charge.started_at) == (engine, 5, 1.0)
    assert math.isclose(engine.next_window_s, engine.curve.window_s(8.0))


def test_a_charge_that_fills_an_engine_takes_it_from_those_with_room() -> None:
    registry, (engine,) = ready_registry(1)
    engine.cap = 5.0
    pool = registry.pools[MODEL]
    load.charge(engine, ticket(windows=4), 1, 0.0)
    assert pool.with_room
    load.charge(engine, ticket(), 2, 0.0)
    assert not pool.with_room


def test_a_release_takes_off_what_was_charged_and_counts_it_as_done() -> None:
    registry, (engine,) = ready_registry(1)
    pool = registry.pools[MODEL]
    charge = load.charge(engine, ticket(windows=5), 1, 0.0)
    load.release(charge, engine, 2.0)
    assert (engine.in_flight, engine.windows_in_flight, engine.audio_s_in_flight) == (0, 0, 0.0)
    assert engine.load == pool.load == 0.0
    assert math.isclose(engine.next_window_s, engine.curve.window_s(1.0))
    assert pool.drain.per_s(2.0) > 0.0


def test_a_charge_alone_all_the_time_had_its_own_windows_in_service() -> None:
    engine = lone_engine()
    charge = load.charge(engine, ticket(windows=3), 1, 10.0)
    assert load.release(charge, engine, 14.0) == 3.0


def test_the_windows_in_service_are_the_mean_over_the_time_of_the_charge() -> None:
    engine = lone_engine()
    load.charge(engine, ticket(windows=2), 1, 0.0)
    charge = load.charge(engine, ticket(windows=4), 2, 10.0)
    load.charge(engine, ticket(windows=6), 3, 12.0)
    # Two seconds with 6, then six with 12.
    assert load.release(charge, engine, 18.0) == pytest.approx(10.5)


def test_a_charge_that_took_no_time_had_what_was_there_at_that_moment() -> None:
    engine = lone_engine()
    load.charge(engine, ticket(windows=2), 1, 5.0)
    charge = load.charge(engine, ticket(windows=4), 2, 5.0)
    assert load.release(charge, engine, 5.0) == 6.0


@given(STEPS, st.floats(0, 50))
@example([(0.0, 6), (22.0, None), (0.0, 1), (1e-10, None)], 0.0)
def test_whatever_is_charged_and_released_the_engine_holds_the_sum(
    steps: list[tuple[float, int | None]], elsewhere: float
) -> None:
    registry, (engine,) = ready_registry(1)
    pool = registry.pools[MODEL]
    engine.elsewhere = engine.load = pool.load = elsewhere
    held: list[tuple[Charge, float]] = []
    now = most = 0.0
    for pause_s, windows in steps:
        now += pause_s
        if windows is not None:
            held.append((load.charge(engine, ticket(windows), 1, now), now))
            most = max(most, engine.windows_in_flight)
        elif held:
            charge, _ = held.pop(0)
            mean = load.release(charge, engine, now)
            # It cannot be less than its own, nor more than ever was there.
            assert charge.windows * (1 - 1e-6) - 1e-6 <= mean <= most * (1 + 1e-6) + 1e-6
        mine = [charge for charge, _ in held]
        assert engine.in_flight == len(mine)
        assert engine.windows_in_flight == sum(charge.windows for charge in mine)
        assert engine.audio_s_in_flight == sum(charge.audio_s for charge in mine)
        assert engine.load == pytest.approx(engine.windows_in_flight + elsewhere)
        assert pool.load == pytest.approx(engine.load)


def test_the_mean_since_a_charge_counts_what_came_and_went_meanwhile() -> None:
    _, (engine,) = ready_registry(1)
    held = load.charge(engine, ticket(windows=2), 1, 10.0)
    assert load.mean(held, engine, 10.0) == engine.load
    other = load.charge(engine, ticket(windows=4), 2, 11.0)
    load.release(other, engine, 12.0)
    engine.elsewhere = 3.0
    assert math.isclose(load.mean(held, engine, 14.0), (2 * 4 + 4 * 1) / 4 + 3.0)


def suspect() -> Ticket:
    made = ticket()
    made.deaths.append(Death(EngineId("gone"), 0.0))
    return made


def test_an_engine_counts_the_suspects_that_it_holds() -> None:
    engine = lone_engine()
    first = load.charge(engine, suspect(), 1, 1.0)
    load.charge(engine, ticket(), 2, 2.0)
    assert (engine.suspects, engine.crowded_at) == (1, -math.inf)
    second = load.charge(engine, suspect(), 3, 3.0)
    assert (engine.suspects, engine.crowded_at) == (2, 3.0)
    load.release(first, engine, 5.0)
    assert (engine.suspects, engine.crowded_at) == (1, 5.0)
    load.release(second, engine, 6.0)
    assert (engine.suspects, engine.crowded_at) == (0, 5.0)


def test_what_becomes_suspect_while_it_is_charged_is_counted_once() -> None:
    engine = lone_engine()
    charge = load.charge(engine, ticket(), 1, 1.0)
    load.suspect(charge, 2.0)
    load.suspect(charge, 2.0)
    assert engine.suspects == 1
    load.release(charge, engine, 3.0)
    charge.engine = None
    load.suspect(charge, 4.0)
    assert engine.suspects == 0


def test_a_death_in_flight_does_not_make_its_own_release_one_of_a_suspect() -> None:
    engine = lone_engine()
    charge = load.charge(engine, ticket(), 1, 1.0)
    charge.ticket.deaths.append(Death(engine.engine_id, 2.0))
    load.release(charge, engine, 2.0)
    assert engine.suspects == 0
