from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.health import HealthRules
from vllm_router.scheduling.service_curve import ServiceCurve
from vllm_router.scheduling.suspicion import SuspicionRules

RULES = SuspicionRules()
usual = st.floats(0, 1e4)
answers = st.floats(0, 1e6)


@given(usual, answers)
def test_no_call_is_overdue_before_the_floor_and_the_multiple(usual_s: float, many: float) -> None:
    after_s = RULES.overdue_after_s(usual_s, many)
    assert after_s >= RULES.floor_s
    assert after_s >= RULES.factor * usual_s


@given(usual, answers, answers)
def test_what_is_less_known_is_given_more_time(usual_s: float, one: float, other: float) -> None:
    few, many = sorted((one, other))
    assert RULES.overdue_after_s(usual_s, few) >= RULES.overdue_after_s(usual_s, many)


@given(usual, usual, answers)
def test_what_usually_takes_longer_is_given_more_time(a: float, b: float, many: float) -> None:
    less, more = sorted((a, b))
    assert RULES.overdue_after_s(less, many) <= RULES.overdue_after_s(more, many)


@given(st.floats(0.01, 100), st.floats(1, 200), st.floats(0, 1e3))
def test_a_gpu_throttled_to_a_quarter_is_not_suspected(
    weight: float, windows: float, many: float
) -> None:
    usual_s = ServiceCurve(weight).window_s(windows)
    assert 4 * usual_s < RULES.overdue_after_s(usual_s, many)


def test_a_call_is_overdue_before_its_answer_would_be_far_too_late() -> None:
    health = HealthRules()
    assert RULES.factor < health.outlier_factor
    assert RULES.floor_s <= health.outlier_floor_s


def test_a_clip_on_a_gpu_waits_for_seconds_and_not_for_a_minute() -> None:
    assert RULES.overdue_after_s(ServiceCurve().window_s(5), 100) == RULES.floor_s


def test_a_laptop_that_takes_three_seconds_for_a_window_has_time_for_a_queue() -> None:
    assert RULES.overdue_after_s(3.0, 100) >= 18.0
    assert RULES.overdue_after_s(3.0, 0) >= 36.0
