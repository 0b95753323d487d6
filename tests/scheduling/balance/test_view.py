import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.balance.candidates import FakeCandidates, FakeLoad

from vllm_router.scheduling.balance import POLICIES, EngineLoad, Policy
from vllm_router.scheduling.balance.view import first_in_order


def by_load(engine: EngineLoad) -> float:
    return engine.load


def test_a_policy_that_only_ranks_takes_the_lowest() -> None:
    policy = Policy("by-load", by_load)
    low, high = FakeLoad("low", load=1.0), FakeLoad("high", load=2.0)
    assert policy.choose is first_in_order
    assert policy.choose(FakeCandidates((high, low), policy), None) == low


@given(st.lists(st.floats(0, 100), max_size=12), st.text())
def test_a_session_key_changes_nothing_where_a_policy_ignores_it(
    loads: list[float], key: str
) -> None:
    policy = Policy("by-load", by_load)
    candidates = FakeCandidates(tuple(FakeLoad(load=load) for load in loads), policy)
    assert first_in_order(candidates, key) == first_in_order(candidates, None)


def test_each_policy_stands_in_the_table_under_its_own_name() -> None:
    assert set(POLICIES) == {
        "least-loaded",
        "roundrobin",
        "least-requests",
        "two-choices",
        "session",
    }
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 90)), max_size=8), st.none() | st.text())
def test_every_policy_chooses_an_engine_with_room_if_there_is_one(
    name: str, figures: list[tuple[int, float]], key: str | None
) -> None:
    policy = POLICIES[name]
    engines = tuple(
        FakeLoad(str(number), count, load, number, 1.0 + load)
        for number, (count, load) in enumerate(figures)
    )
    chosen = policy.choose(FakeCandidates(engines, policy), key)
    assert chosen in engines if engines else chosen is None
