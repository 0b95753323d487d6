from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.alignment import aligned, wordless_s

# Words of a real recording, and where a detector found speech in it. The pauses at "ask not" are
# longer than the one before the last clause.
ORATION = (
    "And so my fellow Americans, ask not what your country can do for you, "
    "ask what you can do for your country."
)
ORATION_SPEECH = ((3.36, 5.25), (6.3, 7.42), (8.4, 10.6), (11.2, 13.54))
READING = (
    "If the reader will excuse me, I will say nothing of my antecedents, nor of the circumstances "
    "which led me to leave my native country. The narrative would be tedious to him and painful to "
    "myself."
)
READING_SPEECH = ((0.35, 1.8), (2.1, 3.98), (4.2, 7.55), (8.22, 10.95))


def spans_of(*pairs):
    return tuple(SpeechSpan(*pair) for pair in pairs)


def later(pairs, by_s):
    return [(start_s + by_s, end_s + by_s) for start_s, end_s in pairs]


def bare(text):
    return "".join(text.split())


def starts(segments):
    return [segment.start_s for segment in segments]


def test_a_sentence_is_one_segment_from_speech_to_speech():
    (only,) = aligned(" Hello there. ", spans_of((0.5, 1.75)))
    assert (only.start_s, only.end_s, only.text) == (0.5, 1.75, "Hello there.")


def test_sentences_are_told_apart_by_the_pause_between_them():
    segments = aligned("The first one. And another one here.", spans_of((1, 2), (2.8, 4.4)))
    assert [(s.start_s, s.end_s) for s in segments] == [(1, 2), (2.8, 4.4)]
    assert [s.text for s in segments] == ["The first one.", "And another one here."]


def test_words_find_their_stretches_through_pauses_within_a_phrase():
    segments = aligned(ORATION, spans_of(*ORATION_SPEECH))
    assert [s.text for s in segments] == [
        "And so my fellow Americans,",
        "ask not what your country can do for you, ask what you can do for your country.",
    ]
    assert starts(segments) == [3.36, 6.3]


@pytest.mark.parametrize("order", ["fast first", "slow first"])
def test_a_slow_and_a_fast_speaker_may_share_a_piece(order):
    if order == "fast first":
        text, second = f"{READING} {ORATION}", 15.26
        speech = [*READING_SPEECH, *later(ORATION_SPEECH, 11.9)]
    else:
        text, second = f"{ORATION} {READING}", 14.85
        speech = [*ORATION_SPEECH, *later(READING_SPEECH, 14.5)]
    segments = aligned(text, spans_of(*speech))
    begin = "And so" if order == "fast first" else "If the reader"
    found = [segment.start_s for segment in segments if segment.text.startswith(begin)]
    assert found == [pytest.approx(second)]


def test_a_long_pause_ends_a_segment_without_punctuation():
    segments = aligned("one two three four five six", spans_of((0, 1), (3, 4)))
    assert [(s.start_s, s.end_s, s.text) for s in segments] == [
        (0, 1, "one two three"),
        (3, 4, "four five six"),
    ]


def test_sentences_without_a_pause_share_a_segment_until_it_is_long():
    segments = aligned("I came. I saw. I won. " * 3, spans_of((0, 4)))
    assert len(segments) == 1
    segments = aligned("It went on like this for a while, and then on. " * 6, spans_of((0, 18)))
    assert len(segments) > 1
    assert all(segment.text.endswith("on.") for segment in segments)
    assert all(segment.end_s - segment.start_s < 10 for segment in segments)


def test_no_segment_is_much_longer_than_20_s():
    segments = aligned("and then so on " * 40, spans_of((0, 29.5)))
    assert max(segment.end_s - segment.start_s for segment in segments) < 21


@pytest.mark.parametrize(
    ("text", "firsts"),
    [
        ("今日は天気がいいですね。明日は雨が降るそうです。", "今明"),
        ("我们今天讨论一下预算。价格会在年底之前上涨很多。", "我价"),
        ("เราต้องตัดสินใจวันนี้ ราคาจะขึ้นก่อนสิ้นปี", "เร"),
        ("어제 기차가 늦었습니다. 오늘은 비가 계속 옵니다.", "어오"),
        ("कल ट्रेन देर से आई थी। आज बारिश हो रही है।", "कआ"),
    ],
)
def test_any_script_is_laid_over_its_speech(text, firsts):
    segments = aligned(text, spans_of((0.0, 2.0), (4.0, 6.2)))
    assert starts(segments) == [0.0, 4.0]
    assert "".join(segment.text[0] for segment in segments) == firsts


def test_sentences_of_a_long_text_without_spaces_keep_their_starts():
    sentences = [
        "今日は来ていただいてありがとう" + "ございます" * count + "。"
        for count in (3, 7, 5, 6, 4, 8)
    ]
    speech, at_s = [], 1.0
    for sentence in sentences:
        speech.append((at_s, at_s + len(sentence) / 8))
        at_s = speech[-1][1] + 0.4
    segments = aligned("".join(sentences), spans_of(*speech))
    assert [segment.text for segment in segments] == sentences
    assert starts(segments) == [start_s for start_s, _ in speech]


def test_a_word_is_not_taken_apart_by_a_pause():
    segments = aligned("Unbelievable", spans_of((0, 1), (3, 4)))
    assert len(segments) == 1
    assert segments[0].text == "Unbelievable"


def test_abbreviations_end_no_segment():
    segments = aligned(
        "He met Mr. Smith in town. She did not.", spans_of((0, 0.6), (0.9, 2), (3, 4))
    )
    assert [segment.text for segment in segments] == ["He met Mr. Smith in town.", "She did not."]


def test_nothing_said_is_no_segment_and_no_speech_no_time():
    assert aligned("  \n", spans_of((0, 1))) == ()
    (only,) = aligned("Hello.", ())
    assert (only.start_s, only.end_s, only.text) == (0.0, 0.0, "Hello.")


def test_speech_that_has_no_words_is_measured():
    said = "one sentence that takes two secs."
    speech = spans_of((0, 2), (3, 5), (6, 8), (9, 11))
    assert wordless_s(" ".join([said] * 4), speech, 16.0) == 0
    assert wordless_s(" ".join([said] * 2), speech, 16.0) > 1.5
    # A quarter slower than usual may be a slow speaker.
    assert wordless_s("", speech, 16.0) == 6
    assert wordless_s(said, (), 16.0) == 0


TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from(
        ["one", "two.", "three,", "four!", "今日は", "、", "。", "สวัสดี", "한국어", "1961", "x" * 90]
    ),
    max_size=60,
).map(" ".join)
LENGTHS = st.floats(0.01, 12)


@st.composite
def speeches(draw):
    at_s, out = draw(st.floats(0, 5000)), []
    for pause_s, length_s in draw(st.lists(st.tuples(st.floats(0, 9), LENGTHS), max_size=12)):
        out.append(SpeechSpan(at_s + pause_s, at_s + pause_s + length_s))
        at_s = out[-1].end_s
    return tuple(out)


@given(TEXTS, speeches())
@example("word " * 700, spans_of((0, 1)))
@example("one", spans_of(*((i, i + 0.5) for i in range(100))))
@example("字" * 2000, spans_of((0, 1), (2, 3)))
@settings(max_examples=300, deadline=None)
def test_any_text_has_times_in_order_within_speech_and_loses_nothing(text, speech):
    segments = aligned(text, speech)
    assert bare("".join(segment.text for segment in segments)) == bare(text)
    assert all(segment.text.strip() for segment in segments)
    for segment in segments:
        assert segment.start_s <= segment.end_s
        if speech:
            assert any(a <= segment.start_s <= b for a, b in speech)
            assert any(a <= segment.end_s <= b for a, b in speech)
    for before, after in pairwise(segments):
        assert before.end_s <= after.start_s


@given(TEXTS, speeches(), st.floats(0.1, 100))
@settings(max_examples=150, deadline=None)
def test_no_more_speech_is_wordless_than_there_is(text, speech, rate_per_s):
    total_s = sum(end_s - start_s for start_s, end_s in speech)
    assert 0 <= wordless_s(text, speech, rate_per_s) <= total_s
    assert wordless_s("", speech, rate_per_s) == pytest.approx(0.75 * total_s)


@given(TEXTS, speeches())
@settings(max_examples=150, deadline=None)
def test_no_segment_spans_a_long_pause_between_its_words(text, speech):
    pauses = [(a.end_s, b.start_s) for a, b in pairwise(speech) if b.start_s - a.end_s >= 1.0]
    for segment in aligned(text, speech):
        for start_s, end_s in pauses:
            assert segment.end_s <= start_s or segment.start_s >= end_s
