import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.formats.subtitles import Cue, CueMaker, SubtitleStyle
from vllm_router.formats.transcript import Segment

TWO = "The first sentence is said. And then there is another one."
LONG = "The first sentence of this segment is said here now. " * 3


def cues(*segments, style=None, speech=None):
    maker = CueMaker(style)
    return [cue for segment in segments for cue in maker.cues(segment, speech)]


def times(found):
    return [(cue.start_ms, cue.end_ms) for cue in found]


def test_a_short_segment_is_one_cue_with_its_own_times():
    assert cues(Segment(0.25, 1.5, " Hello there. ")) == [Cue(250, 1500, ("Hello there.",))]


@pytest.mark.parametrize("text", ["", "  \n", "\u200b", "\x00\x07", "\u0301", "\u200e \u2028"])
def test_a_segment_with_nothing_to_see_makes_no_cue(text):
    assert cues(Segment(0, 1, text)) == []


def test_controls_are_no_text():
    assert cues(Segment(0, 1, "a\x00b\ud800 c\nd\u2028e"))[0].lines == ("ab c d e",)


def test_a_long_segment_shares_its_time_by_length_and_leaves_no_hole():
    found = cues(Segment(1.0, 10.0, LONG))
    assert len(found) == 3
    assert [cue.start_ms for cue in found] == [1000, *(cue.end_ms for cue in found[:-1])]
    assert times(found) == [(1000, 4000), (4000, 7000), (7000, 10000)]
    assert all(cue.lines[-1].endswith(".") for cue in found)


def test_two_sentences_with_a_pause_between_are_two_cues():
    speech = ((0.5, 2.0), (3.0, 4.8))
    assert cues(Segment(0.5, 4.8, TWO), speech=speech) == [
        Cue(500, 2000, ("The first sentence is said.",)),
        Cue(3000, 4800, ("And then there is another one.",)),
    ]
    assert len(cues(Segment(0.5, 4.8, TWO))) == 1


def test_the_pause_between_sentences_is_told_from_one_within():
    speech = ((0, 2.0), (2.5, 3.0), (4.0, 6.1))
    assert times(cues(Segment(0, 6.1, TWO), speech=speech)) == [(0, 3000), (4000, 6100)]


def test_a_pause_far_from_a_sentences_end_is_not_taken_for_it():
    speech = ((0, 0.2), (1.0, 5.0))
    assert times(cues(Segment(0, 5.0, TWO), speech=speech)) == [(0, 5000)]


def test_more_sentences_than_pauses_share_what_is_left():
    speech = ((0, 3.0), (4.0, 10.0))
    text = "One two three four. Five six seven eight. Nine ten eleven and twelve."
    found = cues(Segment(0, 10.0, text), speech=speech)
    assert times(found) == [(0, 3000), (4000, 10000)]


def test_a_cut_within_a_sentence_falls_into_a_pause_that_is_near():
    text = "one two three four five six seven eight nine, " * 4
    for pause_s in (4.8, 5.05, 5.1):
        speech = ((0, pause_s), (pause_s + 1, 11.0))
        found = cues(Segment(0, 11.0, text), speech=speech, style=SubtitleStyle(50, 2))
        assert len(found) == 2
        assert times(found) == [(0, round(pause_s * 1000)), (round(pause_s * 1000) + 1000, 11000)]
    speech = ((0, 1.0), (2.0, 11.0))
    found = cues(Segment(0, 11.0, text), speech=speech, style=SubtitleStyle(50, 2))
    assert times(found) == [(0, 6000), (6000, 11000)]


def test_a_cut_near_the_first_of_two_pauses_falls_into_it():
    text = "one two three four five six seven eight nine, " * 4
    speech = ((0, 4.8), (5.8, 6.8), (7.8, 11.8))
    found = cues(Segment(0, 11.8, text), speech=speech, style=SubtitleStyle(50, 2))
    assert times(found) == [(0, 4800), (5800, 11800)]


def test_cues_never_overlap_nor_vanish_whatever_the_times():
    found = cues(
        Segment(5, 4, "a"), Segment(5, 5, "b"), Segment(0, 1, "c"), Segment(float("nan"), -1, "d")
    )
    assert times(found) == [(5000, 5042), (5042, 5084), (5084, 5126), (5126, 5168)]


@pytest.mark.parametrize(
    ("chars", "lines"), [(9, 2), (1001, 2), (42, 0), (42, 11), (0, 0), (-1, 2)]
)
def test_a_style_out_of_range_is_refused(chars, lines):
    with pytest.raises(ValueError, match="a subtitle"):
        SubtitleStyle(chars, lines)


SEGMENTS = st.lists(
    st.builds(Segment, st.floats(-5, 100), st.floats(-5, 100), st.text(max_size=150)), max_size=6
)
SPEECH = st.none() | st.lists(st.floats(0, 100), max_size=12, unique=True).map(
    lambda edges: tuple(
        (a, b) for a, b in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)
    )
)


@given(SEGMENTS, SPEECH, st.integers(10, 60), st.integers(1, 3))
@settings(max_examples=200)
def test_any_text_and_times_make_cues_that_a_player_takes(segments, speech, chars, lines):
    found = cues(*segments, style=SubtitleStyle(chars, lines), speech=speech)
    before_ms = 0
    for cue in found:
        assert before_ms <= cue.start_ms < cue.end_ms
        before_ms = cue.end_ms
        assert 1 <= len(cue.lines) <= lines
        for line in cue.lines:
            assert line == line.strip() != ""
            assert len(line) <= chars
            assert line.isprintable() or any(unicodedata.category(c)[0] == "C" for c in line)
