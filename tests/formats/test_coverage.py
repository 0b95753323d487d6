import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.coverage import (
    CoverageVerdict,
    better_transcript,
    check_coverage,
    is_ample,
    is_repetitive,
    is_thin,
    joined_at_cut,
    speaking_rate,
    usual_rate,
)
from vllm_router.formats.spoken_length import spoken_length
from vllm_router.formats.transcript import read_transcript

SENTENCE = "It was my reports from the north which chiefly induced people to buy. "
# Said in 3.6 s.
OTHER = "The narrative would be tedious to him and painful to myself. "
USUAL = (18.4, 17.2, 19.0, 16.9)


def speech(length_s, *, start_s=5.0, stretches=1):
    each_s = length_s / stretches
    starts = [start_s + at * (each_s + 0.5) for at in range(stretches)]
    return tuple(SpeechSpan(start_s, start_s + each_s) for start_s in starts)


@pytest.mark.parametrize("rates", [(), USUAL])
@pytest.mark.parametrize(
    ("text", "length_s", "verdict"),
    [
        (SENTENCE, 3.6, CoverageVerdict.COVERED),
        (SENTENCE + OTHER, 6.4, CoverageVerdict.COVERED),
        (SENTENCE, 24.9, CoverageVerdict.THIN),
        # A sentence said twice, and written twice.
        (SENTENCE * 2, 7.2, CoverageVerdict.COVERED),
        # Said once, and written twice.
        (OTHER * 2, 3.6, CoverageVerdict.TOO_MUCH),
        (SENTENCE * 20, 25.0, CoverageVerdict.TOO_MUCH),
        ("No, no, no, no, no, no, no, no, no, no, no, no, " * 12, 25.0, CoverageVerdict.TOO_MUCH),
        ("", 25.0, CoverageVerdict.EMPTY),
        (" … ", 2.0, CoverageVerdict.EMPTY),
        ("♪♪", 2.0, CoverageVerdict.EMPTY),
        ("", 0.0, CoverageVerdict.COVERED),
        (SENTENCE, 0.0, CoverageVerdict.UNSPOKEN),
        ("Thank you.", 0.7, CoverageVerdict.COVERED),
        ("Thank you.", 3.0, CoverageVerdict.UNSPOKEN),
        ("Thank you. Thanks for watching!", 12.0, CoverageVerdict.UNSPOKEN),
        ("Thanks for watching!", 1.3, CoverageVerdict.COVERED),
        ("[Music]", 4.0, CoverageVerdict.UNSPOKEN),
        ("(upbeat music)", 4.0, CoverageVerdict.UNSPOKEN),
        ("Untertitel der Amara.org-Community", 2.0, CoverageVerdict.UNSPOKEN),
        ("谢谢大家。谢谢观看。", 9.0, CoverageVerdict.UNSPOKEN),
        ("धन्यवाद।", 4.0, CoverageVerdict.UNSPOKEN),
        # A breath that the detector took for speech misses no words.
        ("Yes.", 1.4, CoverageVerdict.COVERED),
        ("我们今天讨论一下预算的问题。", 3.2, CoverageVerdict.COVERED),
        ("我们今天讨论一下预算的问题。", 12.0, CoverageVerdict.THIN),
    ],
)
def test_an_answer_is_judged_by_its_length_and_the_time_spoken(text, length_s, verdict, rates):
    assert check_coverage(text, speech(length_s, stretches=2), rates) is verdict


def test_what_is_thin_depends_on_the_other_pieces_once_three_are_known():
    # 10.5 a second: half a sentence may be missing.
    text, spoken = SENTENCE + OTHER, speech(12.2)
    assert check_coverage(text, spoken) is CoverageVerdict.COVERED
    assert check_coverage(text, spoken, USUAL[:2]) is CoverageVerdict.COVERED
    assert check_coverage(text, spoken, USUAL) is CoverageVerdict.THIN
    # Slow speakers are not asked again and again.
    assert check_coverage(text, speech(15.0)) is CoverageVerdict.THIN
    assert check_coverage(text, speech(15.0), (9.0, 8.8, 9.5)) is CoverageVerdict.COVERED


SENTENCES = (
    "It will be seen that I did not succeed in my design.",
    "However much I may have met with that was new and strange, I kept my counsel.",
    "I have been unable to reap any pecuniary advantage.",
    "The narrative would be tedious to him and painful to myself.",
    "It was my reports from the north which chiefly induced people to buy.",
    "The circumstances led me to leave my native country.",
)
# Each sentence said at 17 a second, with half a second between.
STARTS = [sum(len(s) / 17 + 0.5 for s in SENTENCES[:at]) for at in range(len(SENTENCES))]
SAID = tuple(SpeechSpan(a, a + len(s) / 17) for a, s in zip(STARTS, SENTENCES, strict=True))


@pytest.mark.parametrize("lost", range(len(SENTENCES)))
def test_one_lost_sentence_of_many_is_missed(lost):
    text = " ".join(SENTENCES[:lost] + SENTENCES[lost + 1 :])
    assert check_coverage(text, SAID) is CoverageVerdict.COVERED
    assert check_coverage(text, SAID, USUAL) is CoverageVerdict.THIN


def test_nothing_is_missed_where_all_was_said_even_slowly():
    text = " ".join(SENTENCES)
    assert check_coverage(text, SAID, USUAL) is CoverageVerdict.COVERED
    slow = tuple(SpeechSpan(1.25 * a, 1.25 * b) for a, b in SAID)
    assert check_coverage(text, slow, USUAL) is CoverageVerdict.COVERED


def test_the_usual_rate_is_the_median_of_at_least_three():
    assert usual_rate((10.0, 20.0)) is None
    assert usual_rate((10.0, 18.0, 19.0)) == 18.0
    assert speaking_rate("Thank you", speech(0.5)) == 18.0
    assert speaking_rate("Thank you", ()) == 0.0


@pytest.mark.parametrize(
    ("text", "audio_s", "is_thin_"),
    [
        ("ok", 1.0, False),
        ("the words", 3.9, False),
        ("Hello.", 5.9, False),
        ("Hello.", 7.0, True),
        ("", 2.0, True),
        ("[Music]", 2.0, True),
        ("", 0.1, False),
        (SENTENCE, 6.5, False),
        (SENTENCE, 12.0, True),
        ("我们今天讨论一下预算的问题。", 6.2, True),
        ("我们今天讨论一下预算的问题。" * 2, 6.2, False),
    ],
)
def test_a_short_upload_is_looked_at_when_its_answer_is_thin(text, audio_s, is_thin_):
    assert is_thin(text, audio_s) is is_thin_


@pytest.mark.parametrize("rates", [(), USUAL])
@pytest.mark.parametrize(
    ("first", "second", "length_s", "chosen"),
    [
        (SENTENCE, SENTENCE + OTHER, 6.6, 1),
        (SENTENCE + OTHER, SENTENCE, 6.6, 0),
        (SENTENCE * 20, SENTENCE, 6.6, 1),
        (SENTENCE * 30, SENTENCE * 20, 6.6, 1),
        ("", "Some words.", 6.6, 1),
        ("Thank you.", "", 6.6, 0),
        ("It was my reports.", SENTENCE, 20.0, 1),
        (SENTENCE, SENTENCE, 3.6, 0),
    ],
)
def test_the_fuller_of_two_plausible_answers_is_believed(first, second, length_s, chosen, rates):
    assert better_transcript(first, second, speech(length_s), rates) == (first, second)[chosen]


BEFORE = "He said that he would come to the house and wait for us there"
AFTER = "and wait for us there, if the train was on time and the weather fine."
ONCE = f"{BEFORE} if the train was on time and the weather fine."


@pytest.mark.parametrize("rates", [(), USUAL])
def test_words_doubled_by_a_cut_are_kept_once(rates):
    assert joined_at_cut(BEFORE, AFTER, speech(5.8), rates) == ONCE


@pytest.mark.parametrize("rates", [(), USUAL])
def test_words_said_twice_stay_twice(rates):
    assert joined_at_cut(BEFORE, AFTER, speech(7.6), rates) == f"{BEFORE} {AFTER}"


def test_one_or_two_words_are_no_repetition():
    text = joined_at_cut("I think so", "so do I", speech(0.1), USUAL)
    assert text == "I think so so do I"


def test_doubled_characters_of_a_script_without_spaces_are_kept_once():
    before, after = "我们今天讨论一下预算的问题", "讨论一下预算的问题和价格"
    assert joined_at_cut(before, after, speech(3.6), USUAL) == "我们今天讨论一下预算的问题和价格"
    assert joined_at_cut("问题", "问题很大", speech(0.5), USUAL) == "问题问题很大"


def test_a_loop_is_found_and_a_list_is_none():
    assert is_repetitive(OTHER * 2)
    assert is_repetitive("no, " * 9)
    assert is_repetitive("谢谢大家收看" * 8)
    assert not is_repetitive("one, two, three, four, five, six, seven, eight, nine, ten")
    assert not is_repetitive(SENTENCE + OTHER)


TEXTS = st.text(max_size=200) | st.lists(
    st.sampled_from(["one", "two.", "[Music]", "今日は", "♪", "Thank you.", "١٩٦١", "и", "(", "]"]),
    max_size=30,
).map(" ".join)
SPEECH = st.lists(st.floats(0, 9), max_size=4).map(
    lambda lengths: tuple(
        SpeechSpan(10.0 * at, 10.0 * at + each) for at, each in enumerate(lengths)
    )
)
RATES = st.lists(st.floats(0, 60), max_size=5)


@given(TEXTS, TEXTS, SPEECH, RATES)
def test_any_answers_are_judged_and_one_of_two_is_chosen(first, second, spoken, rates):
    assert isinstance(check_coverage(first, spoken, rates), CoverageVerdict)
    assert better_transcript(first, second, spoken, rates) in (first, second)
    chosen = better_transcript(first, second, spoken, rates)
    assert better_transcript(first, chosen, spoken, rates) == chosen


@given(TEXTS, TEXTS, SPEECH, RATES)
def test_a_join_loses_at_most_what_is_doubled(first, second, spoken, rates):
    joined = joined_at_cut(first, second, spoken, rates)
    assert joined.startswith(first.strip())
    rest = joined[len(first.strip()) :].strip()
    assert second.strip().endswith(rest)


@given(TEXTS, st.floats(0, 4000))
def test_more_of_the_same_is_not_thinner(text, audio_s):
    if not is_thin(text, audio_s):
        assert not is_thin(f"{text} {text}", audio_s)


@given(TEXTS, st.floats(6.1, 60))
def test_counting_letters_first_changes_no_verdict(text, audio_s):
    said = f"So {text}"
    assert is_thin(said, audio_s) is (spoken_length(said) < 9.5 * audio_s)


@given(st.sampled_from(["♪", "[Music]", "(upbeat music)", "*coughs*"]), TEXTS)
def test_what_begins_with_a_letter_is_more_than_a_sound(sound, text):
    assert not is_thin(f"é{text} {sound}", 6.0)
    assert is_thin(sound, 6.0)


@pytest.mark.parametrize(
    ("answer", "audio_s", "is_ample_"),
    [
        (b'{"text":"ok"}', 1.0, True),
        (b'{"text":" Hello.","usage":{"type":"duration","seconds":6}}', 5.9, True),
        (b'{"text":"Hello."}', 7.0, False),
        (f'{{"text":"{SENTENCE}"}}'.encode(), 6.5, True),
        ('{"text":"我们今天讨论一下预算的问题。"}'.encode(), 3.2, True),
        ('{"text":"我们今天讨论一下预算的问题。"}'.encode(), 6.2, False),
        # It takes a parser to tell.
        (b'{"text":""}', 2.0, False),
        (b'{"text":"[Music]"}', 2.0, False),
        (b'{"text":"\\u0439"}', 2.0, False),
        (b'{"language":"en","text":"ok"}', 2.0, False),
        (b"ok", 2.0, False),
    ],
)
def test_a_usual_answer_needs_no_parser(answer, audio_s, is_ample_):
    assert is_ample(answer, audio_s) is is_ample_


@given(TEXTS | st.text(), st.floats(0, 60), st.booleans(), st.sampled_from([None, (",", ":")]))
def test_what_is_ample_is_not_thin(text, audio_s, is_ascii, separators):
    answer = json.dumps({"text": text, "usage": {}}, ensure_ascii=is_ascii, separators=separators)
    body = answer.encode("utf-8", "replace")
    if is_ample(body, audio_s):
        assert not is_thin(read_transcript(body).text, audio_s)


@given(st.lists(st.sampled_from(SENTENCE.split()), min_size=1, max_size=80), st.floats(1, 29))
def test_with_more_time_to_speak_an_answer_only_gets_thinner(words, length_s):
    order = (CoverageVerdict.TOO_MUCH, CoverageVerdict.COVERED, CoverageVerdict.THIN)
    text = " ".join(words)
    short, long = check_coverage(text, speech(length_s)), check_coverage(text, speech(2 * length_s))
    assert order.index(short) <= order.index(long)
