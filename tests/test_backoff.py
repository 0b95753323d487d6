import random

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.backoff import full_jitter


@given(st.integers(min_value=1, max_value=10_000), st.integers())
def test_a_wait_is_between_0_and_the_ceiling(failures: int, seed: int) -> None:
    wait_s = full_jitter(failures, random.Random(seed), base_s=0.5, cap_s=30)
    assert 0 <= wait_s <= min(30, 0.5 * 2.0 ** min(failures - 1, 20))


def test_waits_are_spread_over_the_whole_range() -> None:
    rng = random.Random(1)
    waits = [full_jitter(4, rng, base_s=1, cap_s=30) for _ in range(1000)]
    assert min(waits) < 0.5
    assert max(waits) > 7.5
