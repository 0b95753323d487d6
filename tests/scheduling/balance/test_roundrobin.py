from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.balance.candidates import FakeCandidates, FakeLoad

from vllm_router.scheduling.balance.roundrobin import POLICY


def test_an_engine_that_never_had_a_turn_is_first() -> None:
    new = FakeLoad("new", load=50.0, next_window_s=9.0)
    old = FakeLoad("old", turn=1)
    assert POLICY.choose(FakeCandidates((old, new), POLICY), None) == new


@given(st.integers(1, 12), st.integers(1, 6))
def test_each_engine_has_the_same_number_of_turns(count: int, rounds: int) -> None:
    engines = {str(number): FakeLoad(str(number)) for number in range(count)}
    turns: list[str] = []
    for turn in range(1, count * rounds + 1):
        chosen = POLICY.choose(FakeCandidates(tuple(engines.values()), POLICY), None)
        assert chosen is not None
        engines[chosen.name] = replace(chosen, turn=turn)
        turns.append(chosen.name)
    assert turns == turns[:count] * rounds
    assert len(set(turns[:count])) == count
