import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.spoken_length import spoken_length, word_length

# One sentence in scripts that differ in how much a character says.
SAME = {
    "en": "My sister called me yesterday evening and said that the train was late again.",
    "de": "Meine Schwester hat gestern Abend angerufen und gesagt, dass der Zug zu spät war.",
    "ru": "Моя сестра позвонила мне вчера вечером и сказала, что поезд опять опоздал.",
    "ar": "اتصلت بي أختي مساء أمس وقالت إن القطار تأخر مرة أخرى.",
    "hi": "मेरी बहन ने कल शाम मुझे फ़ोन किया और कहा कि ट्रेन फिर से देर से आई।",
    "th": "พี่สาวของฉันโทรมาเมื่อวานตอนเย็นและบอกว่ารถไฟมาช้าอีกแล้ว",
    "zh": "我姐姐昨天晚上给我打电话，说火车又晚点了。",
    "ja": "昨日の夜、姉から電話があって、電車がまた遅れたと言っていました。",
    "ko": "어제 저녁에 언니가 전화해서 기차가 또 늦었다고 말했습니다.",
}


@pytest.mark.parametrize("language", SAME)
def test_a_sentence_is_about_as_long_in_every_script(language):
    assert spoken_length(SAME[language]) == pytest.approx(spoken_length(SAME["en"]), rel=0.35)


def test_english_letters_and_spaces_count_one_and_punctuation_nothing():
    assert spoken_length("Thank you, all.") == len("Thank you all")
    assert spoken_length("  … — !?  ") == 2
    assert spoken_length("") == 0


def test_numbers_are_as_long_as_their_words():
    assert spoken_length("1961") == pytest.approx(len("nineteen sixty-one"), rel=0.2)
    assert spoken_length("20%") > spoken_length("20")


def test_a_letter_taken_apart_is_as_long_as_a_whole_one():
    assert word_length("cafe\u0301") == word_length("café")


@given(st.text(max_size=100), st.text(max_size=100))
def test_the_length_of_a_text_is_that_of_its_parts(first, second):
    whole = spoken_length(f"{first} {second}")
    has_both = bool(first.split()) and bool(second.split())
    assert whole == pytest.approx(spoken_length(first) + spoken_length(second) + has_both)
    assert whole >= 0
