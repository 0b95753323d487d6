from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.speech_spans import spans_within
from vllm_router.formats.snapping import snapped
from vllm_router.formats.transcript import Segment, Transcript


def fit(*segments, speech):
    transcript = Transcript("x", segments=tuple(Segment(a, b, "x") for a, b in segments))
    return [(s.start_s, s.end_s) for s in snapped(transcript, speech).segments]


SPEECH = ((0.5, 2.5), (3.1, 4.1), (6.0, 7.0))


def test_the_parts_of_spans_within_two_times():
    assert spans_within(SPEECH, 1.0, 3.5) == [(1.0, 2.5), (3.1, 3.5)]
    assert spans_within(SPEECH, 2.5, 3.1) == []
    assert spans_within(SPEECH, 0, 9) == list(SPEECH)
    assert spans_within((), 0, 9) == []


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
    speech = tuple((a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False))
    segments = list(pairwise(edges))
    before = 0.0
    for start_s, end_s in fit(*segments, speech=speech):
        assert before <= start_s <= end_s
        before = end_s


def test_without_spans_nothing_moves():
    assert fit((0.0, 3.0), (3.0, 4.0), speech=()) == [(0.0, 3.0), (3.0, 4.0)]
