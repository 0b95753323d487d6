from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import lone_engine

from vllm_router.scheduling.hash_ring import HashRing

KEYS = st.text(max_size=20)
FLEETS = st.sets(st.integers(0, 30), min_size=1, max_size=12)


def ring_of(indices: set[int] | range) -> HashRing:
    ring = HashRing()
    for index in indices:
        ring.add(lone_engine(index))
    return ring


def order(ring: HashRing, key: str) -> list[int]:
    return [engine.index for engine in ring.clockwise(key)]


def first(ring: HashRing, key: str) -> int:
    return next(ring.clockwise(key)).index


def test_an_empty_ring_has_nobody() -> None:
    assert order(HashRing(), "key") == []


def test_one_who_is_not_on_the_ring_may_be_taken_off_it() -> None:
    ring = ring_of({1})
    ring.discard(lone_engine(2))
    assert order(ring, "key") == [1]


@given(FLEETS, KEYS)
def test_every_engine_follows_once(fleet: set[int], key: str) -> None:
    assert sorted(order(ring_of(fleet), key)) == sorted(fleet)


@given(FLEETS, KEYS)
def test_a_keys_order_does_not_depend_on_who_came_first(fleet: set[int], key: str) -> None:
    one, other = HashRing(), HashRing()
    for index in sorted(fleet):
        one.add(lone_engine(index))
    for index in sorted(fleet, reverse=True):
        other.add(lone_engine(index))
    assert order(one, key) == order(other, key)


@given(FLEETS, st.integers(0, 30), KEYS)
def test_who_comes_or_goes_leaves_the_order_of_the_others_alone(
    fleet: set[int], index: int, key: str
) -> None:
    ring = ring_of(fleet - {index})
    before = order(ring, key)
    engine = lone_engine(index)
    ring.add(engine)
    assert [each for each in order(ring, key) if each != index] == before
    ring.discard(engine)
    assert order(ring, key) == before


def test_a_new_engine_takes_its_part_of_the_keys_and_moves_no_other() -> None:
    ring = ring_of(range(9))
    keys = [f"key {number}" for number in range(1000)]
    before = {key: first(ring, key) for key in keys}
    ring.add(lone_engine(9))
    moved = [key for key in keys if first(ring, key) != before[key]]
    assert all(first(ring, key) == 9 for key in moved)
    assert 50 < len(moved) < 170, "a tenth, within the spread of 64 points each"


def test_the_keys_are_spread_over_all_engines() -> None:
    ring = ring_of(range(8))
    counts = Counter(first(ring, f"key {number}") for number in range(2000))
    assert len(counts) == 8
    assert max(counts.values()) < 1.6 * 2000 / 8
    assert min(counts.values()) > 0.5 * 2000 / 8
