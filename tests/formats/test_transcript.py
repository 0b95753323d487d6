import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.transcript import (
    BadTranscript,
    Segment,
    Transcript,
    Word,
    join_texts,
    joined,
    read_transcript,
    separator,
)

# As vLLM answers: no task, ids restarting, no_speech_prob null.
ANSWER = {
    "duration": 2.9665,
    "language": "en",
    "text": " One two.  Three.",
    "segments": [
        {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": 1.5,
            "text": " One two.",
            "tokens": [1, 2],
            "no_speech_prob": None,
        },
        {"id": 0, "seek": 0, "start": 1.5, "end": 2.9, "text": " Three.", "future": {"a": [1]}},
    ],
    "future": True,
}


def read(value, **kwargs):
    return read_transcript(json.dumps(value).encode(), **kwargs)


def spans(transcript):
    return [(segment.start_s, segment.end_s) for segment in transcript.segments]


def with_times(*times, **kwargs):
    segments = [{"start": start, "end": end, "text": "x"} for start, end in times]
    return spans(read({"text": "x", "segments": segments}, **kwargs))


def test_an_answer_is_read_with_the_fields_that_are_not_known():
    assert read(ANSWER) == Transcript(
        text="One two. Three.",
        language="en",
        duration_s=2.966,
        segments=(
            Segment(0.0, 1.5, " One two.", {"seek": 0, "tokens": [1, 2], "no_speech_prob": None}),
            Segment(1.5, 2.9, " Three.", {"seek": 0, "future": {"a": [1]}}),
        ),
        usage={"type": "duration", "seconds": 3},
        extra={"future": True},
    )


def test_a_plain_answer_has_text_and_usage():
    usage = {"type": "duration", "seconds": 3}
    assert read({"text": "hi", "usage": usage}) == Transcript("hi", usage=usage)


@pytest.mark.parametrize(
    ("given_duration", "seconds"),
    [("2.9665", 2.966), (3, 3.0), ("three", None), (None, None), ([], None), (True, None)],
)
def test_a_duration_may_be_text(given_duration, seconds):
    assert read({"text": "", "duration": given_duration}).duration_s == seconds


def test_the_length_the_caller_knows_goes_first():
    assert read(ANSWER, duration_s=2.0).duration_s == 2.0
    assert spans(read(ANSWER, duration_s=2.0)) == [(0.0, 1.5), (1.5, 2.0)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"text":null}', b'{"error":"x"}', b"\xff"])
def test_an_answer_without_text_is_refused(body):
    with pytest.raises(BadTranscript):
        read_transcript(body)


def test_whispers_special_tokens_are_no_words():
    answer = {
        "text": "<|0.00|> Hi <|there|> a<|2.00|>",
        "segments": [{"text": "<|en|><|endoftext|>"}, {"text": " Hi<|2.00|>"}],
    }
    transcript = read(answer)
    assert transcript.text == "Hi a"
    assert [segment.text for segment in transcript.segments] == [" Hi"]


@pytest.mark.parametrize(
    ("times", "ordered"),
    [
        ([(0, 2), (1, 3)], [(0, 1), (1, 3)]),
        ([(0, 1), (29.98, 2), (2, 3), (3, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ([(0, 99), (2, 3)], [(0, 2), (2, 3)]),
        ([(None, None), (2, None)], [(0, 2), (2, 10)]),
        ([(1, 0)], [(1, 10)]),
        ([("1.5", "x"), (-4, 5)], [(1.5, 10), (10, 10)]),
        ([(50, 60)], [(10, 10)]),
        ([(3, 4), (1, 2), (1.5, 2)], [(0, 1), (1, 1.5), (1.5, 2)]),
    ],
)
def test_times_are_put_in_order_inside_the_audio(times, ordered):
    assert with_times(*times, duration_s=10.0) == ordered


def test_without_a_length_an_absent_end_is_the_next_start_or_nothing():
    assert with_times((1, None), (2, None)) == [(1, 2), (2, 2)]


ANY_TIME = st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.floats(0, 40)


@given(
    st.lists(st.tuples(ANY_TIME, ANY_TIME), max_size=12), st.none() | st.floats(0, 30), st.data()
)
def test_any_times_come_out_monotone_and_inside(times, length_s, data):
    segments = [
        {"start": start, "end": end, "text": data.draw(st.sampled_from(["a", " ", "b"]))}
        for start, end in times
    ]
    transcript = read({"text": "", "segments": segments}, duration_s=length_s)
    before = 0.0
    for start, end in spans(transcript):
        assert before <= start <= end
        assert length_s is None or end <= length_s
        before = end
    assert [s.text for s in transcript.segments] == [
        s["text"] for s in segments if s["text"].strip()
    ]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), max_size=10))
def test_times_in_order_stay_as_they_are(steps):
    at, times = 0, []
    for gap, length in steps:
        times.append(((at + gap) / 100, (at + gap + length) / 100))
        at += gap + length
    assert with_times(*times) == times


def test_junk_among_segments_and_words_is_left_out():
    transcript = read(
        {
            "text": "x",
            "language": 3,
            "usage": 3,
            "segments": [3, None, {"text": 3}, {}, {"text": "x", "start": 1, "end": 2}],
            "words": [3, {"word": 3}, {"word": "x", "start": 1, "end": 2, "p": 0.5}],
        }
    )
    assert transcript.segments == (Segment(1.0, 2.0, "x"),)
    assert transcript.words == (Word(1.0, 2.0, "x", {"p": 0.5}),)
    assert (transcript.language, transcript.usage) == (None, None)
    assert read({"text": "x", "segments": {}}).segments == ()


def test_shifting_moves_every_time_and_no_duration():
    moved = Transcript(
        "a", duration_s=3.0, segments=(Segment(0.1, 0.2, "a"),), words=(Word(0.1, 0.2, "a"),)
    ).shifted(3600.0004)
    assert moved.segments == (Segment(3600.1, 3600.2, "a"),)
    assert moved.words == (Word(3600.1, 3600.2, "a"),)
    assert moved.duration_s == 3.0
    assert Transcript("a").shifted(1.0) == Transcript("a")


def test_joining_puts_pieces_behind_each_other():
    first = Transcript("One.", None, 30.0, (Segment(0.0, 30.5, " One."),))
    second = Transcript(
        "", "en", 20.0, (), (Word(31.0, 32.0, "w"),), {"type": "duration", "seconds": 1}, {"a": 1}
    )
    third = Transcript("Two.", "de", 9.5, (Segment(30.2, 30.4, "Two."), Segment(55.0, 56.0, "x")))
    assert joined([first, second, third]) == Transcript(
        text="One. Two.",
        language="en",
        duration_s=59.5,
        segments=(
            Segment(0.0, 30.5, " One."),
            Segment(30.5, 30.5, "Two."),
            Segment(55.0, 56.0, "x"),
        ),
        words=(Word(31.0, 32.0, "w"),),
        usage={"type": "duration", "seconds": 60},
        extra={"a": 1},
    )


def test_joining_knows_no_length_that_a_piece_does_not_know():
    both = joined([Transcript("a", duration_s=1.0), Transcript("b")])
    assert (both.duration_s, both.usage) == (None, None)
    assert joined([Transcript("a")], duration_s=3.0000001).usage == {
        "type": "duration",
        "seconds": 3,
    }
    assert joined([]) == Transcript("")


def test_texts_are_joined_as_their_script_is_written():
    assert join_texts([" One. ", "", "Two"]) == "One. Two"
    assert join_texts(["你好。", "再见"]) == "你好。再见"
    assert join_texts(["สวัสดี", "ครับ"]) == "สวัสดีครับ"
    assert join_texts(["안녕", "세상"]) == "안녕 세상"
    assert separator("", "a") == separator("a ", "b") == ""


@given(st.lists(st.text(max_size=6), max_size=6))
def test_joining_texts_loses_no_character(texts):
    assert "".join(join_texts(texts).split()) == "".join("".join(texts).split())
