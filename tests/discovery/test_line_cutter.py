import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.discovery.line_cutter import LineCutter, LineTooLong

DATA = b"one\n\ntwo\nthree"


def test_whole_lines_are_given_and_the_rest_is_kept() -> None:
    cutter = LineCutter(10)
    assert cutter.feed(DATA) == [b"one", b"two"]
    assert cutter.feed(b"") == []
    assert cutter.feed(b"\nfour\n") == [b"three", b"four"]


def test_byte_by_byte_gives_the_same() -> None:
    cutter = LineCutter(10)
    assert [line for byte in DATA for line in cutter.feed(bytes([byte]))] == [b"one", b"two"]


@given(st.lists(st.binary(max_size=20)))
def test_any_pieces_give_the_lines_of_the_whole(pieces: list[bytes]) -> None:
    cutter = LineCutter(10_000)
    lines = [line for piece in pieces for line in cutter.feed(piece)]
    assert lines == [line for line in b"".join(pieces).split(b"\n")[:-1] if line]


@pytest.mark.parametrize(
    ("before", "last"), [(b"", b"x" * 11), (b"x" * 6, b"x" * 5), (b"x" * 6, b"x" * 5 + b"\n")]
)
def test_a_line_past_the_bound_is_refused_at_once(before: bytes, last: bytes) -> None:
    cutter = LineCutter(10)
    cutter.feed(before)
    with pytest.raises(LineTooLong, match="10 bytes"):
        cutter.feed(last)


def test_a_line_at_the_bound_passes() -> None:
    assert LineCutter(10).feed(b"x" * 10 + b"\n") == [b"x" * 10]
