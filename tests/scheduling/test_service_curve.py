import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.concurrency_limit import LimitRules
from vllm_router.scheduling.service_curve import PRIOR_HALF_AT, PRIOR_PEAK_PER_S, ServiceCurve

ANSWERS = st.lists(
    st.tuples(st.floats(0, 300), st.floats(0, 600), st.floats(0, 30)), min_size=1, max_size=120
)


def teach(
    curve: ServiceCurve,
    peak: float,
    half_at: float,
    answers: int = 400,
    windows: tuple[float, float] = (1.0, 60.0),
    noise: float = 0.05,
    start_at: float = 0.0,
    pause_s: float = 0.05,
) -> float:
    """Let an engine with a known curve answer; return when it was done."""
    rng = Random(2)
    now = start_at
    for _ in range(answers):
        held = rng.uniform(*windows)
        seconds = (half_at + held) / peak * rng.uniform(1 - noise, 1 + noise)
        now += pause_s
        curve.learn(held, seconds, now)
    return now


def test_before_any_answer_the_curve_is_the_measured_prior() -> None:
    curve = ServiceCurve()
    assert math.isclose(curve.peak_per_s, PRIOR_PEAK_PER_S)
    assert math.isclose(curve.half_at, PRIOR_HALF_AT)
    assert math.isclose(curve.window_s(1.0), (PRIOR_HALF_AT + 1.0) / PRIOR_PEAK_PER_S)


def test_a_weight_is_a_speed_relative_to_the_prior_with_the_same_shape() -> None:
    curve = ServiceCurve(weight=0.25)
    assert math.isclose(curve.peak_per_s, PRIOR_PEAK_PER_S / 4)
    assert math.isclose(curve.half_at, PRIOR_HALF_AT)


@given(
    st.floats() | st.sampled_from([1e308, 5e-324, 1e-320, 0.0, -1.0, math.inf, -math.inf, math.nan])
)
def test_every_weight_whatever_has_a_curve_with_limits(weight: float) -> None:
    curve = ServiceCurve(weight)
    rules = LimitRules()
    for value in (
        curve.slope_s,
        curve.peak_per_s,
        curve.half_at,
        curve.window_s(1e6),
        curve.rate_at(1e6),
        curve.limit_at(0.06),
        rules.limit(curve.half_at, None),
        rules.long_limit(
            curve.half_at, curve.peak_per_s, 256.0, 14.0, curve.half_at, curve.peak_per_s
        ),
    ):
        assert 0.0 < value < math.inf
    assert math.isclose(curve.half_at, PRIOR_HALF_AT)


@given(
    st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6, math.inf]),
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=80),
    st.booleans(),
)
def test_from_any_weight_any_answers_lead_to_a_curve_that_is_total(
    weight: float, answers: list[tuple[float, float, float]], is_rough: bool
) -> None:
    curve = ServiceCurve(weight)
    curve.is_count_rough = is_rough
    now = 0.0
    for windows, seconds, pause_s in answers:
        now += pause_s
        curve.learn(windows, seconds, now)
        for value in (curve.slope_s, curve.peak_per_s, curve.half_at, curve.window_s(windows)):
            assert 0.0 < value < math.inf


def test_half_of_the_peak_is_reached_at_half_at() -> None:
    curve = ServiceCurve()
    assert curve.rate_at(0) == 0.0
    assert math.isclose(curve.rate_at(curve.half_at), curve.peak_per_s / 2)


@given(st.floats(0.02, 0.98), st.floats(0.1, 10))
def test_at_the_limit_the_throughput_has_the_elasticity_asked_for(
    elasticity: float, weight: float
) -> None:
    curve = ServiceCurve(weight)
    limit = curve.limit_at(elasticity)
    more = limit * 1.0001
    gained = math.log(curve.rate_at(more) / curve.rate_at(limit)) / math.log(more / limit)
    assert math.isclose(gained, elasticity, rel_tol=1e-2)


@pytest.mark.parametrize(("peak", "half_at"), [(34.0, 11.6), (8.0, 3.0), (90.0, 30.0)])
def test_an_engine_is_known_for_what_it_is_after_some_answers(peak: float, half_at: float) -> None:
    curve = ServiceCurve()
    teach(curve, peak, half_at)
    assert math.isclose(curve.peak_per_s, peak, rel_tol=0.05)
    assert math.isclose(curve.half_at, half_at, rel_tol=0.15)


def test_the_first_answer_already_says_how_fast_an_engine_is() -> None:
    curve = ServiceCurve()
    assert curve.learn(1.0, 4.0, now=10.0)
    assert math.isclose(curve.window_s(1.0), 4.0)


def test_the_line_is_fitted_often_at_first_and_then_every_eighth_answer() -> None:
    curve = ServiceCurve()
    fits = [curve.learn(1.0, 1.0, now=float(number)) for number in range(38)]
    assert [number for number, is_fit in enumerate(fits) if is_fit] == [0, 1, 3, 7, 13, 21, 29, 37]


def test_an_engine_always_at_the_same_load_keeps_the_shape_it_was_thought_to_have() -> None:
    curve = ServiceCurve()
    teach(curve, 10.0, 30.0, windows=(20.0, 20.0), noise=0.0)
    assert math.isclose(curve.window_s(20.0), 5.0, rel_tol=1e-6)
    assert math.isclose(curve.half_at, PRIOR_HALF_AT, rel_tol=1e-3)


def test_where_the_count_is_rough_only_the_speed_is_learned() -> None:
    curve = ServiceCurve()
    curve.is_count_rough = True
    teach(curve, 10.0, 40.0)
    assert math.isclose(curve.half_at, PRIOR_HALF_AT)
    assert curve.peak_per_s < PRIOR_PEAK_PER_S / 2


def test_an_engine_that_slows_down_is_known_for_it_within_a_minute() -> None:
    curve = ServiceCurve()
    now = teach(curve, 40.0, 10.0)
    teach(curve, 10.0, 10.0, start_at=now, answers=400, pause_s=0.15)
    assert math.isclose(curve.peak_per_s, 10.0, rel_tol=0.1)


def test_a_quiet_half_minute_does_not_erase_what_was_learned() -> None:
    curve = ServiceCurve()
    now = teach(curve, 80.0, 20.0)
    known = curve.peak_per_s
    teach(curve, 80.0, 20.0, start_at=now + 30.0, answers=9)
    assert curve.answers > 30
    assert math.isclose(curve.peak_per_s, known, rel_tol=0.1)


def test_no_more_than_some_hundred_answers_weigh() -> None:
    curve = ServiceCurve()
    teach(curve, 34.0, 11.6, answers=3000, pause_s=0.0)
    assert curve.answers <= 408


def test_answers_without_time_teach_nothing() -> None:
    curve = ServiceCurve()
    for number in range(20):
        curve.learn(3.0, 0.0, now=float(number))
    assert math.isclose(curve.peak_per_s, PRIOR_PEAK_PER_S)


@given(ANSWERS, st.booleans())
def test_no_answers_whatever_make_the_curve_anything_but_a_gpus(
    answers: list[tuple[float, float, float]], is_rough: bool
) -> None:
    curve = ServiceCurve()
    curve.is_count_rough = is_rough
    now = 0.0
    for windows, seconds, pause_s in answers:
        now += pause_s
        curve.learn(windows, seconds, now)
        assert 0.0 < curve.slope_s < math.inf
        assert 0.05 - 1e-6 <= curve.half_at <= 512.0 * (1 + 1e-6)
        assert curve.window_s(1.0) < curve.window_s(2.0)


def test_a_rescaled_curve_keeps_its_shape_and_believes_the_next_answer() -> None:
    curve = ServiceCurve()
    now = teach(curve, 5.0, 20.0)
    half_at, own_s = curve.half_at, curve.window_s(1.0)
    curve.rescale(0.25)
    assert math.isclose(curve.half_at, half_at)
    assert math.isclose(curve.window_s(1.0), own_s / 4)
    assert curve.answers == 0.0
    assert curve.learn(1.0, own_s, now + 60.0)
    assert math.isclose(curve.window_s(1.0), own_s)


def test_beside_other_routers_the_shape_last_trusted_is_kept() -> None:
    curve = ServiceCurve()
    for number in range(200):
        curve.learn(float(number % 40), (number % 40 + 3.0) / 5.0, number * 0.1)
    curve.trust()
    known = curve.half_at
    curve.is_count_rough = True
    for number in range(200, 400):
        # Half of what is in service is not seen, and the count says nothing about the time.
        curve.learn(float(number % 7), 4.0, number * 0.1)
    assert curve.half_at == pytest.approx(known)


def test_an_engine_that_slows_down_keeps_its_shape() -> None:
    curve = ServiceCurve()
    for number in range(400):
        curve.learn(float(number % 40), (number % 40 + 3.0) / 5.0, number * 0.1)
    for number in range(400, 450):
        curve.learn(float(number % 40), 4.0 * (number % 40 + 3.0) / 5.0, number * 0.1)
    assert curve.half_at == pytest.approx(3.0, rel=0.3)
    assert curve.peak_per_s == pytest.approx(1.25, rel=0.2)


def test_an_engine_that_is_always_as_full_keeps_its_shape_whatever_the_noise_says() -> None:
    curve = ServiceCurve()
    now = teach(curve, 57.5, 18.5)
    half_at = curve.half_at
    rng = Random(5)
    for number in range(3000):
        windows = rng.uniform(155.0, 165.0)
        # The fuller, the longer, by far more than the curve says: a line through 0 or below.
        curve.learn(windows, 3.1 + 0.04 * (windows - 160.0), now + number / 50.0)
    assert curve.half_at == pytest.approx(half_at, rel=0.3)
    assert curve.stuck_at == pytest.approx(160.0, rel=0.05)


def test_an_engine_whose_load_varies_is_not_stuck() -> None:
    curve = ServiceCurve()
    teach(curve, 57.5, 18.5)
    assert curve.stuck_at == 0.0


def test_a_quick_answer_after_a_late_first_one_is_believed_at_once() -> None:
    curve = ServiceCurve()
    curve.learn(1.0, 9.0, now=1.0)
    curve.learn(1.0, 0.1, now=2.0)
    assert curve.window_s(1.0) < 0.2


def test_a_cpus_shape_is_known_after_some_dozen_answers() -> None:
    curve = ServiceCurve()
    for number in range(40):
        windows = 1.0 + number % 8
        curve.learn(windows, 3.0 * windows + 1.0, now=30.0 * number)
    assert curve.half_at < 1.5


def test_another_engines_curve_may_be_assumed() -> None:
    curve = ServiceCurve()
    curve.assume(120.0, 8.0)
    assert (curve.peak_per_s, curve.half_at) == (pytest.approx(120.0), pytest.approx(8.0))
