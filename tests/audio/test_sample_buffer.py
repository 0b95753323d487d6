import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.sample_buffer import SampleBuffer


def test_what_was_added_is_there_until_it_is_dropped() -> None:
    held = SampleBuffer()
    held.add(b"aabbcc")
    held.add(b"ddee")
    assert (held.size, held.end) == (5, 5)
    assert held.between(1, 4) == b"bbccdd"
    held.drop(2, 3)
    assert held.between(0, 2) == b"aabb"
    assert held.between(3, 5) == b"ddee"
    assert held.between(2, 2) == b""
    with pytest.raises(LookupError):
        held.between(1, 4)
    assert repr(held) == "<SampleBuffer 4 up to 5>"


@given(
    st.lists(
        st.one_of(st.integers(0, 9), st.tuples(st.integers(0, 40), st.integers(0, 40))),
        max_size=20,
    )
)
def test_it_holds_what_was_not_dropped(steps: list[int | tuple[int, int]]) -> None:
    held = SampleBuffer()
    there: dict[int, bytes] = {}
    for step in steps:
        if isinstance(step, int):
            fresh = [(held.end + k, bytes([held.end + k, 7])) for k in range(step)]
            held.add(b"".join(sample for _, sample in fresh))
            there.update(fresh)
        else:
            held.drop(*step)
            there = {at: s for at, s in there.items() if not step[0] <= at < step[1]}
        assert held.size == len(there)
        for at, sample in there.items():
            assert held.between(at, at + 1) == sample
