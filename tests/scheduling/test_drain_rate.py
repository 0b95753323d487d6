import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.drain_rate import DrainRate, expected_wait_s

NOTES = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 200)), min_size=1, max_size=60)


def test_before_anything_is_done_the_rate_is_nothing() -> None:
    assert DrainRate().per_s(100.0) == 0.0


@pytest.mark.parametrize("per_s", [0.5, 10.0, 300.0])
def test_a_steady_rate_is_told_as_it_is(per_s: float) -> None:
    rate = DrainRate()
    count = int(40 * per_s)
    for step in range(count):
        rate.note(1, 50.0 + step / per_s)
    assert rate.per_s(50.0 + count / per_s) == pytest.approx(per_s, rel=0.25)


def test_a_rate_that_has_just_begun_is_compared_with_the_time_it_has_had() -> None:
    rate = DrainRate()
    for step in range(10):
        rate.note(2, 50.0 + step / 10)
    assert rate.per_s(51.0) == pytest.approx(20.0, rel=0.15)


def test_the_very_first_answer_is_no_infinite_rate() -> None:
    rate = DrainRate()
    rate.note(1, 50.0)
    assert rate.per_s(50.0) == pytest.approx(10.0)


def test_what_stopped_is_forgotten_in_some_seconds() -> None:
    rate = DrainRate()
    for step in range(400):
        rate.note(1, 50.0 + step / 10)
    assert rate.per_s(90.0) == pytest.approx(10.0, rel=0.1)
    assert rate.per_s(95.0) == pytest.approx(10.0 / math.e, rel=0.1)
    assert rate.per_s(150.0) < 0.001


@given(NOTES, st.floats(0, 1000))
def test_no_more_is_told_than_could_be_and_never_less_than_nothing(
    notes: list[tuple[float, int]], later_s: float
) -> None:
    rate = DrainRate()
    now = done = 0.0
    for pause_s, windows in notes:
        now += pause_s
        done += windows
        rate.note(windows, now)
    assert 0.0 <= rate.per_s(now + later_s) <= 10.0 * done
    assert rate.per_s(now + later_s + 1.0) <= rate.per_s(now + later_s) + 1e-9


def test_a_wait_is_the_work_over_the_rate() -> None:
    assert expected_wait_s(30, 10.0) == 3.0
    assert expected_wait_s(0, 0.0) == 0.0
    assert expected_wait_s(1, 0.0) == math.inf
