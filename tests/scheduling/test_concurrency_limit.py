import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.scheduling.concurrency_limit import Holding, LimitRules
from vllm_router.scheduling.service_curve import ServiceCurve

RULES = LimitRules()
FILLS = st.floats(RULES.least_fill, RULES.most_fill)
WAITING = st.floats(0, 1000)
PASSED = st.floats(0, 1e6)


def curve_of(half_at: float, peak_per_s: float = 34.0) -> ServiceCurve:
    curve = ServiceCurve()
    curve.slope_s = 1.0 / peak_per_s
    curve.intercept_s = half_at / peak_per_s
    return curve


def held_at(waiting: float, fill: float = RULES.first_fill, rules: LimitRules = RULES) -> float:
    """Return where the fill comes to rest while so much waits all the time."""
    for _ in range(1000):
        fill = rules.fill(fill, waiting, 30.0)
    return fill


def test_the_limit_is_where_the_throughput_stops_rising() -> None:
    curve = ServiceCurve()
    limit = RULES.limit(curve.half_at, None)
    assert 210 < limit < 230
    assert curve.rate_at(limit) == pytest.approx(0.95 * curve.peak_per_s, rel=0.01)


def test_the_operators_word_is_the_limit() -> None:
    assert RULES.limit(ServiceCurve().half_at, 1) == 1.0
    assert RULES.limit(ServiceCurve().half_at, 4000) == 4000.0


@given(st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_a_learned_limit_stays_between_two_windows_and_what_the_engine_takes(
    half_at: float, peak_per_s: float
) -> None:
    assert 2.0 <= RULES.limit(curve_of(half_at, peak_per_s).half_at, None) <= 256.0


def test_an_engine_that_has_shown_to_run_more_than_vllm_by_default_may_have_a_step_more() -> None:
    assert RULES.limit(1000.0, None, ran=200.0) == 256.0
    assert RULES.limit(1000.0, None, ran=256.0) == 320.0
    assert RULES.limit(11.6, None, ran=4000.0) < 256.0, "where it is productive"


def test_a_single_file_is_taken_at_once_by_the_fewest_engines() -> None:
    for half_at in (20.0, 40.0):
        assert RULES.for_a_file(4.0, half_at) * half_at == pytest.approx(RULES.file_windows)
    assert RULES.for_a_file(4.0, 1.0) == RULES.most_fill
    assert RULES.for_a_file(9.0, 40.0) == 9.0
    assert RULES.for_a_file(4.0, 0.0) == 4.0


@given(FILLS, WAITING, PASSED)
def test_the_fill_stays_within_its_ends(fill: float, waiting: float, passed: float) -> None:
    assert RULES.least_fill <= RULES.fill(fill, waiting, passed) <= RULES.most_fill


@given(FILLS, st.tuples(WAITING, WAITING), PASSED)
def test_the_more_waits_the_higher_the_fill(
    fill: float, waiting: tuple[float, float], passed: float
) -> None:
    less, more = sorted(waiting)
    assert RULES.fill(fill, less, passed) <= RULES.fill(fill, more, passed)


@given(FILLS, WAITING)
def test_without_time_nothing_moves(fill: float, waiting: float) -> None:
    assert RULES.fill(fill, waiting, 0.0) == pytest.approx(fill)


@given(FILLS, WAITING)
def test_a_fleet_that_was_not_asked_for_long_does_not_jump(fill: float, waiting: float) -> None:
    assert RULES.fill(fill, waiting, 1e9) == RULES.fill(fill, waiting, RULES.longest_step)


def test_an_idle_fleet_is_left_quick_and_an_overloaded_one_filled() -> None:
    assert held_at(0.0) == RULES.least_fill
    assert held_at(1000.0) == RULES.most_fill


@given(st.floats(0.5, 20), FILLS)
@settings(max_examples=30)
def test_where_the_fill_comes_to_rest_does_not_depend_on_where_it_began(
    waiting: float, begin: float
) -> None:
    assert held_at(waiting, begin) == pytest.approx(held_at(waiting), rel=1e-3)


def test_at_rest_long_work_waits_as_long_as_is_aimed_at() -> None:
    waiting = 4.0
    fill = held_at(waiting)
    assert RULES.least_fill < fill < RULES.most_fill
    aim = RULES.wait_per_service * (fill / RULES.first_fill) ** RULES.wait_growth
    assert waiting / fill == pytest.approx(aim, rel=1e-3)


def test_the_fill_rises_faster_than_it_falls() -> None:
    risen = math.log(RULES.fill(5.0, 1000.0, 1.0) / 5.0)
    fallen = math.log(5.0 / RULES.fill(5.0, 0.0, 1.0))
    assert risen == pytest.approx(RULES.haste * fallen)


def test_long_work_fills_an_engine_so_many_times_its_half() -> None:
    curve = curve_of(10.0)
    assert RULES.long_limit(curve.half_at, curve.peak_per_s, 256.0, 5.0, 0.0, 0.0) == pytest.approx(
        50.0
    )
    assert RULES.long_limit(curve.half_at, curve.peak_per_s, 256.0, 8.0, 0.0, 0.0) == pytest.approx(
        80.0
    )


def test_part_of_the_limit_is_kept_for_short_work() -> None:
    assert RULES.long_limit(
        curve_of(10.0).half_at, curve_of(10.0).peak_per_s, 40.0, 14.0, 0.0, 0.0
    ) == pytest.approx(36.0)


def test_on_a_fleet_of_equals_evenness_takes_nothing_away() -> None:
    curve = curve_of(10.0, 20.0)
    assert RULES.long_limit(
        curve.half_at, curve.peak_per_s, 256.0, 5.0, 30.0, 60.0
    ) == pytest.approx(50.0)


def test_a_slow_engine_takes_no_more_than_what_it_finishes_with_the_others() -> None:
    slow = curve_of(20.0, 8.0)
    # Two fast engines of 40 windows per second each beside it.
    half_at, peak_per_s, fill = 40.0, 88.0, 6.0
    limit = RULES.long_limit(slow.half_at, slow.peak_per_s, 256.0, fill, half_at, peak_per_s)
    assert limit < fill * slow.half_at
    usual_s = half_at / peak_per_s * (fill + 1.0)
    assert slow.window_s(limit) == pytest.approx(RULES.evenness * usual_s)


@given(
    st.floats(0.5, 64),
    st.floats(0.1, 500),
    st.floats(1, 256),
    FILLS,
    st.floats(0, 1e4),
    st.floats(0, 1e4),
)
def test_any_engine_takes_one_window_of_long_work_and_leaves_short_work_its_part(
    half_at: float,
    peak_per_s: float,
    limit: float,
    fill: float,
    fleet_half_at: float,
    fleet_peak_per_s: float,
) -> None:
    long_limit = RULES.long_limit(
        curve_of(half_at, peak_per_s).half_at,
        curve_of(half_at, peak_per_s).peak_per_s,
        limit,
        fill,
        fleet_half_at,
        fleet_peak_per_s,
    )
    assert 1.0 <= long_limit <= max(1.0, limit - 1.0)


@given(FILLS)
def test_quiet_engines_are_filled_no_more_than_the_others(fill: float) -> None:
    assert RULES.quiet(fill) <= fill
    assert RULES.quiet(fill) == fill or fill < RULES.quiet_fill
    assert RULES.quiet(fill) > 0.0


def test_nothing_is_known_of_what_an_engine_holds_before_it_tells() -> None:
    assert Holding().most == math.inf


def test_an_engine_that_lets_windows_wait_is_filled_no_further_than_what_it_ran() -> None:
    holding = Holding()
    holding.scraped(160.0, 0.0, None)
    holding.scraped(168.0, 90.0, None)
    assert holding.most == 168.0


def test_a_burst_that_has_just_come_does_not_hide_what_the_engine_ran_before() -> None:
    holding = Holding()
    holding.scraped(150.0, 0.0, None)
    holding.scraped(12.0, 60.0, None)
    assert holding.most > 140.0


def test_a_bound_that_only_a_burst_has_shown_is_soon_given_up() -> None:
    holding = Holding()
    holding.scraped(12.0, 60.0, None)
    assert holding.most == 12.0
    for _ in range(5):
        holding.scraped(holding.most, 0.0, None)
    assert holding.most > 300.0


def test_a_bound_that_has_been_seen_often_is_tried_gently() -> None:
    holding = Holding()
    for _ in range(3):
        holding.scraped(168.0, 5.0, None)
    holding.scraped(168.0, 0.0, None)
    assert 168.0 < holding.most < 180.0


def test_the_caches_usage_tells_what_it_holds_before_anything_waits() -> None:
    holding = Holding()
    holding.scraped(42.0, 0.0, 0.25)
    assert holding.most == pytest.approx(168.0, rel=0.05)


def test_a_usage_of_a_few_percent_tells_nothing() -> None:
    holding = Holding()
    holding.scraped(3.0, 0.0, 0.01)
    holding.scraped(2.0, 0.0, 0.5)
    assert holding.most == math.inf


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.none() | st.floats(0, 1)), max_size=50
    )
)
def test_whatever_is_scraped_an_engine_holds_a_window(
    scrapes: list[tuple[float, float, float | None]],
) -> None:
    holding = Holding()
    for running, waiting, usage in scrapes:
        holding.scraped(running, waiting, usage)
        assert holding.most >= 1.0


def test_an_engine_that_puts_windows_back_is_filled_less() -> None:
    holding = Holding()
    holding.scraped(100.0, 0.0, None, 3.0)
    assert holding.most == math.inf
    holding.scraped(100.0, 0.0, None, 4.0)
    assert holding.most == pytest.approx(90.0)


def test_a_count_of_windows_put_back_that_begins_anew_says_nothing() -> None:
    holding = Holding()
    holding.scraped(100.0, 0.0, None, 3.0)
    holding.scraped(100.0, 0.0, None, 0.0)
    assert holding.most == math.inf
