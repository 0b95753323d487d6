import pytest
from tests.speech.cues import Cue, cue_accuracy, read_subtitles
from tests.speech.recordings import Recording, Sentence

RECORDING = Recording(
    "made-up.wav",
    b"",
    20.0,
    (
        Sentence(1.0, 5.0, "One two three four.", ((1.0, 2.0), (3.0, 5.0))),
        Sentence(10.0, 12.0, "Five six.", ((10.0, 12.0),)),
    ),
)


@pytest.mark.parametrize(
    ("start_s", "text", "near"),
    [
        (1.2, "one two", 1),
        (0.5, "one two", 0),
        (4.0, "one two", 0),
        (4.0, "three four", 1),
        (2.2, "three four", 1),
        (2.5, "three four", 0),
        (0.9, "three four", 1),
        (0.5, "three four", 0),
        (10.1, "Five six!", 1),
        (1.0, "five six", 0),
        (1.0, "seven", 0),
    ],
)
def test_a_cue_must_begin_where_its_words_do(start_s: float, text: str, near: int) -> None:
    found = cue_accuracy([Cue(start_s, start_s + 1, text)], RECORDING)
    assert (found.near, found.count) == (near, 1)


def test_cues_without_words_do_not_count() -> None:
    assert cue_accuracy([Cue(0, 1, "...")], RECORDING).share == 1.0


def test_the_worst_miss_is_told() -> None:
    cues = [Cue(1.1, 2, "one two three four"), Cue(10.25, 12, "five six")]
    assert cue_accuracy(cues, RECORDING).worst_s == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("srt", "1\n00:00:01,000 --> 00:00:02,500\nOne\ntwo\n\n"),
        ("vtt", "WEBVTT\n\n00:01.000 --> 00:02.500\nOne\ntwo\n\n"),
    ],
)
def test_subtitles_are_read(kind: str, text: str) -> None:
    assert read_subtitles(text, kind) == [Cue(1.0, 2.5, "One two")]
