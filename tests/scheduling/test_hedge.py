from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.hedge import Hedge


def after(*seconds: float) -> Hedge:
    hedge = Hedge()
    for each in seconds:
        hedge.answered(each)
    return hedge


def burst(hedge: Hedge) -> int:
    return sum(hedge.spend() for _ in range(1000))


def test_nothing_is_hedged_before_enough_is_known() -> None:
    assert after(*[1.0] * 39).delay_s() is None
    assert after(*[1.0] * 40).delay_s() is not None


def test_a_delay_that_the_operator_names_holds_from_the_start() -> None:
    assert Hedge(after_s=0.75).delay_s() == 0.75


def test_the_delay_is_what_one_in_twenty_exceeds() -> None:
    times = [0.1] * 94 + [3.0] * 6
    Random(1).shuffle(times)
    delay_s = after(*times).delay_s()
    assert delay_s is not None
    assert 3.0 <= delay_s <= 3.4
    delay_s = after(*[0.1] * 96, *[3.0] * 4).delay_s()
    assert delay_s is not None
    assert 0.1 <= delay_s <= 0.12


@given(st.lists(st.floats(0.01, 3000), min_size=40, max_size=200))
def test_at_most_one_answer_in_twenty_takes_longer_than_the_delay(times: list[float]) -> None:
    delay_s = after(*times).delay_s()
    assert delay_s is not None
    assert sum(seconds > delay_s * (1 + 1e-9) for seconds in times) <= 0.05 * len(times)


@given(st.lists(st.floats(0.01, 3000), min_size=40, max_size=200))
def test_the_delay_is_no_longer_than_needed_but_for_a_tenth(times: list[float]) -> None:
    delay_s = after(*times).delay_s()
    assert delay_s is not None
    # Of answers below this, fewer than 95 % are: some answer is in the bucket that ends there.
    edge_s = delay_s / 1.1052
    assert sum(seconds >= edge_s for seconds in times) >= 0.05 * len(times) - 1e-9


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 1e9])
def test_times_off_the_scale_are_counted_at_its_ends(seconds: float) -> None:
    delay_s = after(*[seconds] * 40).delay_s()
    assert delay_s is not None
    assert 0.01 < delay_s < 5000.0


def test_a_fleet_that_has_become_slower_is_known_within_some_thousand_answers() -> None:
    hedge = after(*[0.1] * 10_000)
    for _ in range(2000):
        hedge.answered(2.0)
    delay_s = hedge.delay_s()
    assert delay_s is not None
    assert delay_s >= 2.0


def test_a_few_hedges_may_come_at_once_and_then_only_their_share() -> None:
    hedge = Hedge(share=0.1)
    assert burst(hedge) == 3
    for _ in range(19):
        hedge.answered(1.0)
    assert burst(hedge) == 1
    hedge.answered(1.0)
    assert burst(hedge) == 1


def test_a_quiet_time_saves_up_no_more_than_one_burst() -> None:
    assert burst(after(*[1.0] * 1000)) == 3


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1))
def test_hedges_never_exceed_their_share_of_the_answers_and_one_burst(
    asked: list[bool], share: float
) -> None:
    hedge = Hedge(share=share)
    answers = spent = 0
    for is_hedge in asked:
        if is_hedge:
            spent += hedge.spend()
        else:
            hedge.answered(1.0)
            answers += 1
        assert spent <= share * answers + 3.0 + 1e-6
