import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.wire.loops import is_caught_in_a_loop
from vllm_router.wire.transcript import Segment, Transcript

SENTENCE = "The router gives each request to a free engine."


def heard(*segments: tuple[float, float, str]) -> Transcript:
    made = tuple(Segment(start_s, end_s, text) for start_s, end_s, text in segments)
    return Transcript(text=" ".join(s.text for s in made), segments=made)


@pytest.mark.parametrize(
    ("length_s", "text"),
    [
        (2.24, "The router gives each request to a gives each request to a free engine. " * 2),
        (2.82, "The router gives each request to a gives each request to a gives each request to."),
        (2.0, "谢谢大家收看我们的节目下次再见。" * 8),
        (0.16, SENTENCE),
        (0.0, SENTENCE),
        (0.1, "The train to a free engine. The router."),
    ],
)
def test_words_that_come_again_sooner_than_they_can_be_said_are_a_loop(
    length_s: float, text: str
) -> None:
    assert is_caught_in_a_loop(heard((0.0, 2.3, SENTENCE), (3.0, 3.0 + length_s, text)))


@pytest.mark.parametrize(
    ("length_s", "text"),
    [
        (2.3, SENTENCE),
        (5.0, f"{SENTENCE} {SENTENCE}"),
        (1.6, "Testing, testing, testing the model."),
        (0.1, "Thank you."),
        (4.0, "我们今天讨论一下预算的问题。"),
    ],
)
def test_what_can_be_said_is_none(length_s: float, text: str) -> None:
    assert not is_caught_in_a_loop(heard((0.0, 2.3, SENTENCE), (3.0, 3.0 + length_s, text)))


def test_times_that_are_all_made_up_tell_of_no_loop() -> None:
    assert not is_caught_in_a_loop(heard((0.0, 0.0, SENTENCE), (0.0, 0.1, SENTENCE)))
    assert not is_caught_in_a_loop(heard((0.0, 1.0, SENTENCE)))


def test_words_without_times_are_none() -> None:
    assert not is_caught_in_a_loop(Transcript(text="again and again and again " * 50))


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30), st.text(max_size=300)), max_size=5))
def test_any_transcript_is_told(segments: list[tuple[float, float, str]]) -> None:
    made = heard(*((min(a, b), max(a, b), text) for a, b, text in segments))
    assert is_caught_in_a_loop(made) in (True, False)


def test_only_the_beginning_of_a_very_long_text_is_searched() -> None:
    rng = random.Random(1)
    text = "".join(rng.choice("abcdefgh ") for _ in range(1_000_000))
    assert not is_caught_in_a_loop(heard((0.0, len(text) / 30, text + SENTENCE * 2)))
