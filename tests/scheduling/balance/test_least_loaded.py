from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.balance.candidates import FakeCandidates, FakeLoad

from vllm_router.scheduling.balance.least_loaded import POLICY

SECONDS = st.floats(0.001, 100)


def test_a_slow_engine_with_little_to_do_loses_against_a_fast_one_with_more() -> None:
    slow = FakeLoad("slow", in_flight=1, load=1.0, next_window_s=2.0)
    fast = FakeLoad("fast", in_flight=9, load=9.0, next_window_s=0.5)
    assert POLICY.choose(FakeCandidates((slow, fast), POLICY), None) == fast


@given(st.lists(SECONDS, min_size=1, max_size=20), st.none() | st.text())
def test_no_engine_would_be_done_sooner_than_the_chosen_one(
    times: list[float], key: str | None
) -> None:
    engines = tuple(FakeLoad(next_window_s=seconds) for seconds in times)
    chosen = POLICY.choose(FakeCandidates(engines, POLICY), key)
    assert chosen is not None
    assert chosen.next_window_s == min(times)


def test_without_an_engine_with_room_none_is_chosen() -> None:
    assert POLICY.choose(FakeCandidates((), POLICY), None) is None
