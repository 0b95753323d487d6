from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.balance.candidates import FakeCandidates, FakeLoad

from vllm_router.scheduling.balance.least_requests import POLICY


def test_one_long_request_counts_as_much_as_one_short_one() -> None:
    long = FakeLoad("long", in_flight=1, load=100.0, next_window_s=9.0)
    shorts = FakeLoad("shorts", in_flight=2, load=2.0, next_window_s=0.5)
    assert POLICY.choose(FakeCandidates((shorts, long), POLICY), None) == long


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_no_engine_holds_fewer_requests_than_the_chosen_one(counts: list[int]) -> None:
    engines = tuple(FakeLoad(in_flight=count) for count in counts)
    chosen = POLICY.choose(FakeCandidates(engines, POLICY), None)
    assert chosen is not None
    assert chosen.in_flight == min(counts)
