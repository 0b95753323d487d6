import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import lone_engine, ready_registry

from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.headroom import update_headroom

LEARNED = FleetSettings()


def fixed(windows: int, share: float = 1.0) -> FleetSettings:
    return FleetSettings(max_windows=windows, limit_share=share)


def pooled_engine() -> Engine:
    _, (engine,) = ready_registry(1)
    return engine


def test_a_free_warm_engine_may_be_filled_to_its_limit() -> None:
    engine = pooled_engine()
    update_headroom(engine, fixed(40), 1.0)
    assert engine.limit == engine.cap == 40.0


def test_long_work_leaves_short_work_its_part() -> None:
    engine = pooled_engine()
    update_headroom(engine, fixed(40), 1.0)
    assert engine.long_cap == 36.0


def test_long_work_fills_a_learned_engine_as_far_as_its_pool_says() -> None:
    registry, (engine, *_) = ready_registry(8)
    (pool,) = registry.pools.values()
    pool.fill = 3.0
    engine.curve.reached = 100.0
    update_headroom(engine, LEARNED, 1.0)
    assert engine.long_limit == pytest.approx(3.0 * engine.curve.half_at)
    assert engine.long_cap == math.ceil(engine.long_limit)
    assert engine.cap > engine.long_cap


def test_a_single_engine_takes_a_whole_file_whatever_its_pool_says() -> None:
    registry, (engine,) = ready_registry(1)
    (pool,) = registry.pools.values()
    pool.fill = 3.0
    engine.curve.reached = 100.0
    update_headroom(engine, LEARNED, 1.0)
    assert engine.long_cap == LEARNED.limits.file_windows


def test_an_engine_that_takes_nothing_still_has_a_limit_to_show() -> None:
    engine = pooled_engine()
    update_headroom(engine, fixed(40), None)
    assert (engine.limit, engine.cap, engine.long_cap) == (40.0, 0.0, 0.0)


def test_an_engine_on_trial_takes_one_request_at_a_time() -> None:
    engine = pooled_engine()
    engine.is_on_trial = True
    update_headroom(engine, fixed(40), 1.0)
    assert engine.cap == engine.long_cap == 1.0
    engine.in_flight = 1
    update_headroom(engine, fixed(40), 1.0)
    assert engine.cap == engine.long_cap == 0.0


def test_an_engine_that_warms_up_takes_its_part_and_at_least_one_window() -> None:
    engine = pooled_engine()
    update_headroom(engine, fixed(40), 0.5)
    assert engine.cap == 20.0
    assert engine.long_cap <= 20.0
    update_headroom(engine, fixed(4), 0.05)
    assert engine.cap == engine.long_cap == 1.0


def test_each_of_several_processes_fills_its_share_and_at_least_one_window() -> None:
    engine = pooled_engine()
    update_headroom(engine, fixed(40, share=0.25), 1.0)
    assert engine.cap == 10.0
    update_headroom(engine, fixed(2, share=0.25), 1.0)
    assert engine.cap == 1.0


def test_what_others_have_there_is_left_to_them() -> None:
    engine = pooled_engine()
    engine.elsewhere, engine.part = 10.0, 0.25
    update_headroom(engine, fixed(40), 1.0)
    assert engine.cap == 30.0


def test_a_routers_part_is_its_own_even_when_others_fill_the_engine() -> None:
    engine = pooled_engine()
    engine.elsewhere, engine.part = 200.0, 0.25
    update_headroom(engine, fixed(40), 1.0)
    assert engine.cap == 10.0
    assert engine.long_cap == math.ceil(0.25 * 36.0)


def test_beside_others_long_work_takes_half_of_what_they_leave_and_no_more() -> None:
    engine = pooled_engine()
    engine.elsewhere, engine.part = 5.0, 0.25
    update_headroom(engine, fixed(40), 1.0)
    assert engine.long_cap == math.ceil(0.5 * (36.0 - 5.0))


def test_an_engine_of_no_pool_has_one_window_of_long_work() -> None:
    engine = lone_engine()
    update_headroom(engine, LEARNED, 1.0)
    assert engine.long_limit == engine.long_cap == 1.0


@given(
    st.none() | st.integers(1, 300),
    st.floats(0.01, 1.0),
    st.floats(0.05, 1.0),
    st.floats(0, 400),
    st.floats(0.25, 1.0),
    st.floats(2, 14),
)
def test_an_open_engine_always_has_room_for_one_window_and_long_work_never_more_than_short(
    max_windows: int | None,
    share: float,
    warmth: float,
    elsewhere: float,
    part: float,
    fill: float,
) -> None:
    registry, (engine,) = ready_registry(1)
    (pool,) = registry.pools.values()
    pool.fill = fill
    engine.elsewhere, engine.part = elsewhere, part
    update_headroom(engine, FleetSettings(max_windows=max_windows, limit_share=share), warmth)
    assert 1.0 <= engine.long_cap <= engine.cap <= max(1.0, math.ceil(engine.limit))
    assert engine.cap <= max(1.0, math.ceil(engine.limit * share))


def test_an_engine_that_is_always_as_full_is_tried_further_and_never_without_bound() -> None:
    engine = pooled_engine()
    engine.intercept_s, engine.curve.reached = 0.001, 100.0
    update_headroom(engine, LEARNED, 1.0)
    assert engine.limit < 10.0
    engine.curve.stuck_at = 8.0
    update_headroom(engine, LEARNED, 1.0)
    assert engine.limit == engine.cap == 10.0
    engine.curve.stuck_at = 1e6
    update_headroom(engine, LEARNED, 1.0)
    assert engine.limit <= LEARNED.limits.most_limit


def test_what_an_engine_holds_bounds_everything_but_the_operators_word() -> None:
    engine = pooled_engine()
    engine.curve.reached = 200.0
    engine.holding.scraped(50.0, 9.0, None)
    update_headroom(engine, LEARNED, 1.0)
    assert engine.limit == 50.0
    update_headroom(engine, fixed(90), 1.0)
    assert engine.limit == 90.0


def test_an_engine_that_has_shown_little_is_filled_in_steps() -> None:
    engine = pooled_engine()
    update_headroom(engine, LEARNED, 1.0)
    assert engine.cap == LEARNED.limits.first_limit
    engine.curve.reached = 8.0
    update_headroom(engine, LEARNED, 1.0)
    assert engine.cap == 8.0 * LEARNED.limits.further
