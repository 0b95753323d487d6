"""Finding bytes: the same places as Python itself finds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.wire.search import WORTH_A_CALL_BYTES, find

LONG = 3 * WORTH_A_CALL_BYTES


@given(
    st.integers(0, 2**32),
    st.integers(1, 80),
    st.integers(0, LONG),
    st.integers(0, LONG),
    st.lists(st.integers(0, LONG), max_size=4),
    st.sampled_from([2, 4, 256]),
)
def test_it_finds_what_python_finds(
    seed: int, size: int, start: int, end: int, places: list[int], kinds: int
) -> None:
    chance = random.Random(seed)
    data = bytearray(chance.choices(range(kinds), k=LONG))
    needle = bytes(chance.choices(range(kinds), k=size))
    for place in places:
        data[place : place + size] = needle
    end = max(start, min(end, len(data)))
    start = min(start, end)
    assert find(data, needle, start, end) == data.find(needle, start, end)
    assert find(bytes(data), needle, start, end) == data.find(needle, start, end)


@pytest.mark.parametrize("at", [0, 1, LONG - 9, LONG - 8])
def test_the_edges_count_and_what_is_behind_them_does_not(at: int) -> None:
    data = bytearray(LONG)
    data[at : at + 8] = b"boundary"
    assert find(data, b"boundary", 0, LONG) == at
    assert find(data, b"boundary", at, at + 8) == at
    assert find(data, b"boundary", 0, at + 7) == -1
    assert find(data, b"boundary", at + 1, LONG) == -1


def test_the_memory_may_be_resized_afterwards() -> None:
    data = bytearray(LONG)
    assert find(data, b"x", 0, LONG) == -1
    data += b"more"
