import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.stock_phrases import is_credit, is_stock, without_sounds


def test_sounds_are_no_words_but_what_is_said_in_brackets_stays():
    assert without_sounds("[Music] And so (laughs) we went ♪") == "And so we went"
    assert without_sounds("a (rather small) town, [BLANK_AUDIO]") == "a (rather small) town,"
    assert without_sounds("as  it   is") == "as  it   is"


@pytest.mark.parametrize(
    "text",
    [
        "Thank you.",
        "THANK YOU! Thanks for watching.",
        "you",
        "Спасибо за просмотр!",
        "谢谢大家。谢谢观看。",
        "ご視聴ありがとうございました",
        "धन्यवाद।",
        "Untertitel der Amara.org-Community",
        "I'll see you in the next video.",
    ],
)
def test_stock_phrases_are_known_whatever_their_punctuation(text):
    assert is_stock(text)


@pytest.mark.parametrize(
    "text", ["Thank you for the flowers.", "You are late. Thank you.", "谢谢你的信"]
)
def test_a_sentence_with_more_in_it_is_none(text):
    assert not is_stock(text)


def test_credits_are_told_from_phrases_that_are_said():
    assert is_credit("Субтитры сделал DimaTorzok")
    assert is_credit("Altyazı M.K.")
    assert not is_credit("Thank you.")


@given(st.text(max_size=200))
def test_any_text_loses_only_its_sounds(text):
    rest = without_sounds(text)
    assert len(rest) <= len(text)
    assert without_sounds(f"{text} [Music]").split() == rest.split() or "[" in text
    assert is_stock(text) in (True, False)
