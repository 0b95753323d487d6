from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.wire.speech import Span, moved, snapped, spans_within, speech_spans
from vllm_router.wire.transcript import Segment, Transcript

RATE_HZ = 16_000


def audio(*parts, noise=12.0, seed=1):
    """Join (seconds, loudness) parts over a faint noise."""
    rng = np.random.default_rng(seed)
    level = np.concatenate([np.full(round(s * RATE_HZ), loud, float) for s, loud in parts])
    signal = rng.normal(size=len(level)) * level + rng.normal(size=len(level)) * noise
    return np.clip(signal, -32768, 32767).astype("<i2").tobytes()


def fit(*segments, speech):
    transcript = Transcript("x", segments=tuple(Segment(a, b, "x") for a, b in segments))
    return [(s.start_s, s.end_s) for s in snapped(transcript, speech).segments]


@pytest.mark.parametrize("noise", [0.0, 12.0, 100.0])
def test_speech_is_found_between_pauses(noise):
    pcm = audio((0.5, 0), (2, 3000), (0.6, 0), (1, 1500), (0.9, 0), noise=noise)
    spans = speech_spans(pcm)
    assert len(spans) == 2
    assert np.allclose(spans, [(0.5, 2.5), (3.1, 4.1)], atol=0.03)


def test_a_stop_within_a_word_is_no_pause():
    pcm = audio((0.5, 0), (0.4, 3000), (0.12, 0), (0.4, 3000), (0.5, 0))
    assert len(speech_spans(pcm)) == 1


def test_a_click_is_no_speech():
    pcm = audio((1, 0), (0.01, 9000), (1, 0), (1, 3000), (1, 0))
    assert len(speech_spans(pcm)) == 1


@pytest.mark.parametrize(
    "pcm",
    [b"\0" * 64_000, audio((2, 0)), audio((2, 3000)), audio((2, 0), noise=0.0)],
    ids=["digital silence", "noise", "talk without pause", "nothing"],
)
def test_all_is_speech_where_loud_and_quiet_cannot_be_told_apart(pcm):
    assert speech_spans(pcm) == (Span(0.0, 2.0),)


def test_the_shortest_pieces():
    assert speech_spans(b"") == ()
    assert speech_spans(b"\0") == ()
    assert speech_spans(b"\0" * 32) == (Span(0.0, 0.001),)


@given(st.binary(max_size=4000), st.integers(100, 48_000))
def test_any_bytes_give_spans_in_order_inside_the_piece(pcm, rate_hz):
    before = -1.0
    for start_s, end_s in speech_spans(pcm, rate_hz):
        assert before < start_s < end_s <= len(pcm) / 2 / rate_hz + 0.02
        before = end_s


SPEECH = (Span(0.5, 2.5), Span(3.1, 4.1), Span(6.0, 7.0))


def test_the_parts_of_spans_within_two_times():
    assert spans_within(SPEECH, 1.0, 3.5) == [Span(1.0, 2.5), Span(3.1, 3.5)]
    assert spans_within(SPEECH, 2.5, 3.1) == []
    assert spans_within(SPEECH, 0, 9) == list(SPEECH)
    assert spans_within((), 0, 9) == []


def test_spans_move_with_their_piece():
    assert moved(SPEECH[:1], 30.0004) == (Span(30.5, 32.5),)


@pytest.mark.parametrize(
    ("segments", "fitted"),
    [
        ([(0.0, 3.1), (3.1, 6.0), (6.0, 9.0)], [(0.5, 2.5), (3.1, 4.1), (6.0, 7.0)]),
        ([(0.7, 2.3)], [(0.5, 2.5)]),
        ([(0.0, 2.4), (2.4, 5.0)], [(0.5, 2.5), (3.1, 4.1)]),
        ([(0.0, 3.2), (3.2, 5.0)], [(0.5, 2.5), (3.1, 4.1)]),
        ([(1.5, 2.0)], [(1.5, 2.0)]),
        ([(2.6, 3.0)], [(2.6, 3.0)]),
        ([(0.0, 9.0)], [(0.5, 7.0)]),
        ([(0.0, 1.2), (1.2, 3.0)], [(0.5, 1.2), (1.2, 2.5)]),
        ([], []),
    ],
)
def test_segments_begin_and_end_with_their_speech(segments, fitted):
    assert fit(*segments, speech=SPEECH) == fitted


TIMES = st.floats(0, 10).map(lambda x: round(x, 2))


@given(st.lists(TIMES, max_size=8).map(sorted), st.lists(TIMES, max_size=12, unique=True))
def test_snapped_segments_stay_in_order(edges, cuts):
    cuts.sort()
    speech = tuple(Span(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False))
    segments = list(pairwise(edges))
    before = 0.0
    for start_s, end_s in fit(*segments, speech=speech):
        assert before <= start_s <= end_s
        before = end_s


def test_without_spans_nothing_moves():
    assert fit((0.0, 3.0), (3.0, 4.0), speech=()) == [(0.0, 3.0), (3.0, 4.0)]
