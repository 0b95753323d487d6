import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.bitrate import BitrateBook


def test_the_first_guess_is_sixty_four_kilobits() -> None:
    assert BitrateBook().estimate("unknown", 80_000) == pytest.approx(10.0)


def test_guesses_near_what_was_seen() -> None:
    book = BitrateBook()
    for _ in range(50):
        book.observe("webm", 240_000, 60.0)
    assert book.estimate("webm", 40_000) == pytest.approx(10.0, rel=0.05)
    assert book.estimate("mp3", 80_000) == pytest.approx(10.0)


def test_recent_uploads_count_most() -> None:
    book = BitrateBook()
    for _ in range(300):
        book.observe("ogg", 1000, 1.0)
    for _ in range(300):
        book.observe("ogg", 9000, 1.0)
    assert book.estimate("ogg", 9000) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("size_bytes", "seconds"), [(0, 1.0), (100, 0.0), (100, -1.0), (100, float("inf"))]
)
def test_nothing_is_learned_from_nonsense(size_bytes: int, seconds: float) -> None:
    book = BitrateBook()
    book.observe("mp3", size_bytes, seconds)
    assert repr(book) == "<BitrateBook {}>"


def test_kinds_are_bounded() -> None:
    book = BitrateBook()
    for i in range(1000):
        book.observe(f"kind {i}", 100, 1.0)
    assert repr(book).count("kind") == 64
    book.observe("kind 0", 1000, 1.0)


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.floats(1e-3, 1e6)), max_size=30))
def test_a_guess_is_always_a_length(seen: list[tuple[int, float]]) -> None:
    book = BitrateBook()
    for size_bytes, seconds in seen:
        book.observe("flac", size_bytes, seconds)
    assert 0 < book.estimate("flac", 1000) < float("inf")
