from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.balance.candidates import FakeCandidates, FakeLoad

from vllm_router.scheduling.balance.session import LOAD_FACTOR, POLICY

LOADS = st.lists(st.floats(0, 200), min_size=1, max_size=20)


def engines_with(*loads: float) -> tuple[FakeLoad, ...]:
    return tuple(
        FakeLoad(str(number), load=load, next_window_s=1.0 + load)
        for number, load in enumerate(loads)
    )


def test_the_first_engine_after_the_keys_point_takes_its_work() -> None:
    candidates = FakeCandidates(engines_with(3, 0, 3), POLICY)
    chosen = POLICY.choose(candidates, "caller 7")
    assert chosen is not None
    assert chosen.name == "0", "though another is idle"
    assert candidates.keys == ["caller 7"]


def test_an_engine_with_more_than_its_share_is_passed_over() -> None:
    chosen = POLICY.choose(FakeCandidates(engines_with(30, 30, 4), POLICY), "key")
    assert chosen is not None
    assert chosen.name == "2"


def test_an_idle_fleet_takes_a_first_window_where_the_key_says() -> None:
    chosen = POLICY.choose(FakeCandidates(engines_with(0, 0), POLICY), "key")
    assert chosen is not None
    assert chosen.name == "0"


def test_work_without_a_key_goes_to_the_least_loaded_engine() -> None:
    candidates = FakeCandidates(engines_with(2, 1, 2), POLICY)
    chosen = POLICY.choose(candidates, None)
    assert chosen is not None
    assert chosen.name == "1"
    assert candidates.keys == []


class Crowded(FakeCandidates):
    """Those with room are the fullest of a fleet whose mean is far below."""

    def fair_load(self) -> float:
        return 1.0


def test_when_all_with_room_are_over_the_bound_the_first_on_the_ring_is_taken() -> None:
    chosen = POLICY.choose(Crowded(engines_with(9, 8), POLICY), "key")
    assert chosen is not None
    assert chosen.name == "0"


class Elsewhere(FakeCandidates):
    """No engine near the key's point has room; others have."""

    def clockwise(self, key: str) -> Iterator[FakeLoad]:
        return iter(())


def test_when_none_near_the_keys_point_has_room_the_least_loaded_of_all_is_taken() -> None:
    chosen = POLICY.choose(Elsewhere(engines_with(9, 8), POLICY), "key")
    assert chosen is not None
    assert chosen.name == "1"


@pytest.mark.parametrize("key", [None, "key"])
def test_without_an_engine_with_room_none_is_chosen(key: str | None) -> None:
    assert POLICY.choose(FakeCandidates((), POLICY), key) is None


@given(LOADS)
def test_the_chosen_engine_is_within_the_bound_and_those_before_it_are_not(
    loads: list[float],
) -> None:
    candidates = FakeCandidates(engines_with(*loads), POLICY)
    chosen = POLICY.choose(candidates, "key")
    assert chosen is not None
    bound = LOAD_FACTOR * candidates.fair_load() + 1.0
    assert chosen.load < bound
    assert all(load >= bound for load in loads[: int(chosen.name)])
