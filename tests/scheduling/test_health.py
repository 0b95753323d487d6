from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.health import HealthRules

RULES = HealthRules()


def test_each_further_ejection_lasts_twice_as_long_up_to_the_longest() -> None:
    assert [RULES.ejection_for(times) for times in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 256.0]
    assert RULES.ejection_for(10) == 300.0


@given(st.integers(1, 100_000))
def test_no_number_of_ejections_lasts_longer_than_the_longest(times: int) -> None:
    assert 1.0 <= RULES.ejection_for(times) <= 300.0


@pytest.mark.parametrize(
    ("members", "most_out"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (100, 50)]
)
def test_at_most_half_of_the_engines_are_out(members: int, most_out: int) -> None:
    out = 0
    while RULES.may_eject(out, members):
        out += 1
    assert out == most_out


def test_a_returned_engine_grows_to_its_limit_in_ten_seconds() -> None:
    assert RULES.warmth(5.0) == 0.5
    assert RULES.warmth(10.0) == RULES.warmth(1e9) == 1.0


@given(st.lists(st.floats(0, 60), min_size=2), st.floats(0.1, 60))
def test_warmth_never_falls_and_is_never_nothing(times: list[float], slow_start_s: float) -> None:
    rules = HealthRules(slow_start_s=slow_start_s)
    warmth = [rules.warmth(seconds) for seconds in sorted(times)]
    assert all(0.0 < part <= 1.0 for part in warmth)
    assert all(one <= other for one, other in pairwise(warmth))


def test_without_a_slow_start_an_engine_is_warm_at_once() -> None:
    assert HealthRules(slow_start_s=0.0).warmth(0.0) == 1.0
