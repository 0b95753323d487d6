from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.retry import RetryBudget

# What happens, one after the other: seconds that pass, then requests, then repeats asked for.
STEPS = st.lists(
    st.tuples(st.floats(0, 20), st.integers(0, 30), st.integers(0, 60)), min_size=1, max_size=30
)


def repeats(budget: RetryBudget, now: float, asked: int = 1000) -> int:
    return sum(budget.spend(now) for _ in range(asked))


def test_a_quiet_router_repeats_a_few_times_a_second() -> None:
    assert repeats(RetryBudget(share=0.0, floor_per_s=3.0), 100.0) == 30


def test_what_was_spent_comes_back_with_time() -> None:
    budget = RetryBudget(share=0.0, floor_per_s=1.0)
    assert repeats(budget, 0.0) == 10
    assert repeats(budget, 0.05) == 0
    assert repeats(budget, 10.0) == 6, "1 - 1/e of ten, after the ten seconds it remembers"
    assert repeats(budget, 1000.0) == 10


def test_live_traffic_earns_its_share_of_repeats() -> None:
    budget = RetryBudget(share=0.25, floor_per_s=0.0)
    assert not budget.spend(0.0)
    for _ in range(100):
        budget.earn(0.0)
    assert repeats(budget, 0.0) == 25


def test_traffic_of_long_ago_earns_nothing_now() -> None:
    budget = RetryBudget(share=1.0, floor_per_s=0.0)
    for _ in range(100):
        budget.earn(0.0)
    assert repeats(budget, 100.0) == 0


def test_work_cut_off_by_an_ejection_is_granted_one_repeat_each() -> None:
    budget = RetryBudget(share=0.0, floor_per_s=0.0)
    budget.grant(100, 5.0)
    assert repeats(budget, 5.0) == 100


def test_a_refusal_costs_nothing() -> None:
    budget = RetryBudget(share=0.5, floor_per_s=0.0)
    assert repeats(budget, 0.0) == 0
    budget.earn(0.0)
    budget.earn(0.0)
    assert budget.spend(0.0)


@given(STEPS, st.floats(0, 1), st.floats(0, 5))
def test_repeats_never_exceed_the_share_of_all_traffic_and_the_floor(
    steps: list[tuple[float, int, int]], share: float, floor_per_s: float
) -> None:
    budget = RetryBudget(share, floor_per_s)
    now = requests = spent = 0.0
    for pause_s, arrivals, asked in steps:
        now += pause_s
        for _ in range(arrivals):
            budget.earn(now)
        requests += arrivals
        spent += repeats(budget, now, asked)
        # What was overdrawn comes back no faster than the floor per second.
        assert spent <= share * requests + floor_per_s * (now + 10.0) + 1e-6


@given(st.integers(0, 200), st.floats(0, 1))
def test_a_burst_of_repeats_is_bounded_by_what_it_was_earned_with(
    requests: int, share: float
) -> None:
    budget = RetryBudget(share, floor_per_s=0.0)
    for _ in range(requests):
        budget.earn(7.0)
    assert abs(repeats(budget, 7.0) - share * requests) <= 1.0 + 1e-6
