from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.language import (
    CODES,
    Identified,
    LanguageChoice,
    LanguageSample,
    LanguageVote,
    TextIdentifier,
    are_close,
    language_code,
    result_language,
)

TEXTS = {
    "en": "My sister called me yesterday evening and said that the train was late again.",
    "de": "Meine Schwester hat gestern Abend angerufen und gesagt, dass der Zug zu spät war.",
    "fr": "Ma sœur m'a appelé hier soir et m'a dit que le train avait encore du retard.",
    "es": "Mi hermana me llamó ayer por la noche y me dijo que el tren llegaba con retraso.",
    "it": "Mia sorella mi ha chiamato ieri sera e ha detto che il treno era in ritardo.",
    "pt": "A minha irmã ligou-me ontem à noite e disse que o comboio estava outra vez atrasado.",
    "nl": "Mijn zus belde me gisteravond en zei dat de trein weer te laat was.",
    "pl": "Moja siostra zadzwoniła do mnie wczoraj wieczorem i powiedziała, że pociąg się spóźnił.",
    "ru": "Моя сестра позвонила мне вчера вечером и сказала, что поезд опять опоздал.",
    "uk": "Моя сестра подзвонила мені вчора ввечері і сказала, що потяг знову запізнився.",
    "tr": "Kız kardeşim dün akşam beni aradı ve trenin yine geciktiğini söyledi.",
    "ar": "اتصلت بي أختي مساء أمس وقالت إن القطار تأخر مرة أخرى ولا أعرف متى يصل.",
    "he": "אחותי התקשרה אליי אתמול בערב ואמרה שהרכבת שוב איחרה.",
    "hi": "मेरी बहन ने कल शाम मुझे फ़ोन किया और कहा कि ट्रेन फिर से देर से आई।",
    "zh": "我姐姐昨天晚上给我打电话，说火车又晚点了。",
    "ja": "昨日の夜、姉から電話があって、電車がまた遅れたと言っていました。",
    "ko": "어제 저녁에 언니가 전화해서 기차가 또 늦었다고 말했습니다.",
    "th": "พี่สาวของฉันโทรมาเมื่อวานตอนเย็นและบอกว่ารถไฟมาช้าอีกแล้ว",
    "vi": "Chị gái tôi gọi cho tôi tối hôm qua và nói rằng tàu lại đến muộn.",
}


@pytest.fixture(scope="module")
def identifier():
    return TextIdentifier()


def vote_of(*pieces, count=None):
    vote = LanguageVote()
    for index, piece in enumerate(pieces):
        if piece is not None:
            vote.hear(index, LanguageSample(*piece))
    if count is not None:
        vote.finish(count)
    return vote


def finished(*pieces):
    return vote_of(*pieces, count=len(pieces))


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_of_a_sentence_is_told(identifier, language):
    found = identifier.identify(TEXTS[language])
    assert found is not None
    assert found.language == language
    assert found.confidence > 0.8


@pytest.mark.parametrize("text", ["", "…", "♪♪", "123 456", "haha", "Oh", "\ud800", "\x00" * 9])
def test_what_is_hardly_language_is_not_guessed(identifier, text):
    assert identifier.identify(text) is None


def test_threads_may_share_an_identifier(identifier):
    texts = list(TEXTS.values()) * 20
    with ThreadPoolExecutor(8) as pool:
        found = [each.language for each in pool.map(identifier.identify, texts)]
    assert found == list(TEXTS) * 20


@given(st.text(max_size=3000))
def test_any_text_is_whispers_language_or_none(identifier, text):
    found = identifier.identify(text)
    assert found is None or (found.language in CODES and 0.5 <= found.confidence <= 1.001)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("english", "en"),
        (" English ", "en"),
        ("en-US", "en"),
        ("zh_Hant", "zh"),
        ("haitian creole", "ht"),
        ("Castilian", "es"),
        ("iw", "he"),
        ("jv", "jw"),
        ("nb-NO", "no"),
        ("yue", "yue"),
        ("klingon", None),
        ("tlh-XX", None),
        ("", None),
        (None, None),
    ],
)
def test_a_language_is_known_under_each_of_its_names(name, code):
    assert language_code(name) == code


def test_whisper_knows_a_hundred_languages():
    assert len(CODES) == len(set(CODES)) == 100
    assert all(language_code(code) == code for code in CODES)


def test_closeness_is_mutual_and_of_oneself():
    assert are_close("en", "en")
    assert are_close("no", "da")
    assert are_close("da", "no")
    assert not are_close("en", "de")


def test_a_dial_tone_at_the_start_does_not_decide():
    vote = finished(("nn", 0.9, 2.0), ("en", 0.9, 27.0), ("en", 0.9, 27.0))
    assert vote.majority == "en"
    assert vote.to_ask_again() == [0]


def test_a_short_or_unsure_piece_is_asked_again():
    pieces = [("en", 0.95, 27.0)] * 4
    assert finished(*pieces, ("cy", 0.95, 6.0)).to_ask_again() == [4]
    assert finished(*pieces, ("de", 0.6, 27.0), *pieces).to_ask_again() == [4]


def test_a_second_language_that_lasts_stays():
    pieces = [("en", 0.95, 27.0)] * 4
    assert finished(*pieces, ("de", 0.95, 20.0), *pieces).to_ask_again() == []
    assert finished(*pieces, *[("de", 0.95, 4.0)] * 3, *pieces).to_ask_again() == []
    assert finished(*pieces, *[("de", 0.95, 8.0)] * 2, *pieces).to_ask_again() == []
    assert finished(*pieces, *[("de", 0.95, 5.0)] * 2, *pieces).to_ask_again() == []
    assert finished(*pieces, ("de", 0.95, 10.0), *pieces).to_ask_again() == [4]
    assert finished(*pieces, *[("de", 0.95, 3.0)] * 2, *pieces).to_ask_again() == [4, 5]
    assert finished(*pieces, *[("cy", 0.95, 5.0)] * 2, *pieces).to_ask_again() == [4, 5]
    # A piece that does not tell stands between two that do.
    between = [("de", 0.95, 8.0), (None, 0.0, 3.0), ("de", 0.95, 8.0)]
    assert finished(*pieces, *between, *pieces).to_ask_again() == []


def test_a_language_that_whisper_takes_noise_for_needs_more_than_one_long_piece():
    pieces = [("en", 0.95, 27.0)] * 4
    assert finished(*pieces, ("cy", 0.99, 27.0), *pieces).to_ask_again() == [4]
    assert finished(*pieces, *[("cy", 0.99, 27.0)] * 3, *pieces).to_ask_again() == []
    assert finished(*[("cy", 0.99, 27.0)] * 3).to_ask_again() == []


def test_close_languages_vote_together_and_are_not_asked_again():
    vote = finished(("no", 0.7, 20.0), ("nn", 0.7, 5.0), ("da", 0.7, 10.0), ("en", 0.7, 25.0))
    assert vote.majority == "no"
    assert vote.to_ask_again() == [3]


def test_one_piece_is_its_own_majority():
    assert finished(("fr", 0.5, 1.0)).to_ask_again() == []
    assert finished(("fr", 0.5, 1.0)).majority == "fr"
    assert finished((None, 0.0, 1.0)).majority is None
    assert LanguageVote().majority is None


def test_a_stream_waits_only_where_later_pieces_may_decide():
    vote = vote_of(("cy", 0.9, 4.0))
    assert vote.choose(0) is LanguageChoice.WAIT
    vote.hear(1, LanguageSample("en", 0.95, 27.0))
    assert vote.choose(0) is LanguageChoice.ASK_AGAIN
    assert vote.choose(1) is LanguageChoice.KEEP
    vote.hear(2, LanguageSample("de", 0.95, 8.0))
    assert vote.choose(2) is LanguageChoice.WAIT
    vote.hear(3, LanguageSample("de", 0.95, 8.0))
    assert vote.choose(2) is LanguageChoice.KEEP
    vote.hear(4, LanguageSample("es", 0.95, 3.0))
    assert vote.choose(4) is LanguageChoice.WAIT
    vote.finish(5)
    assert vote.choose(4) is LanguageChoice.ASK_AGAIN


def test_a_stream_does_not_wait_for_sureness_where_all_agree():
    vote = vote_of(("id", 0.6, 10.0), ("id", 0.6, 10.0))
    assert vote.choose(0) is vote.choose(1) is LanguageChoice.KEEP


def test_a_second_answer_replaces_the_first():
    vote = finished(("en", 0.9, 27.0), ("cy", 0.9, 5.0))
    assert vote.to_ask_again() == [1]
    vote.hear(1, LanguageSample("en", 0.9, 5.0))
    assert vote.to_ask_again() == []


HEARD = st.builds(
    LanguageSample,
    st.sampled_from(["en", "de", "cy", "no", "da", None]),
    st.floats(0, 1),
    st.floats(0, 30),
)


@given(st.lists(HEARD, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing_and_all_is_decided_at_the_end(pieces, random):
    in_order, shuffled = LanguageVote(), LanguageVote()
    for index, heard in enumerate(pieces):
        in_order.hear(index, heard)
    places = list(range(len(pieces)))
    random.shuffle(places)
    for index in places:
        shuffled.hear(index, pieces[index])
    for vote in (in_order, shuffled):
        vote.finish(len(pieces))
    assert in_order.majority == shuffled.majority
    choices = [in_order.choose(index) for index in places]
    assert choices == [shuffled.choose(index) for index in places]
    assert LanguageChoice.WAIT not in choices
    for index, choice in zip(places, choices, strict=True):
        language, majority = pieces[index].language, in_order.majority
        if choice is LanguageChoice.ASK_AGAIN:
            assert language is not None
            assert majority is not None
            assert not are_close(language, majority)


def test_a_result_always_names_a_language():
    assert result_language(("German", "en")) == "de"
    assert result_language((None, "", "klingon", "fr")) == "fr"
    assert result_language((), Identified("ja", 0.9)) == "ja"
    assert result_language((None,)) == "en"
