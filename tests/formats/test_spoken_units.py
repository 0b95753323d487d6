import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.line_breaking import Ending
from vllm_router.formats.spoken_units import spoken_units, text_of

TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from(["one", "two.", "three,", "今日は", "、", "。", "สวัสดี", "한국어", "1961"]),
    max_size=60,
).map(" ".join)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Hello there, Mr. Smith.", ["Hello", "there,", "Mr.", "Smith."]),
        ("今日は。", ["今", "日", "は。"]),
        ("เราไป", ["เรา", "ไป"]),
        ("เราไปเที่ยวโรงเรียน", ["เรา", "ไป", "เที่ยว", "โรงเรียน"]),
        ("한국어 입니다", ["한국어", "입니다"]),
    ],
)
def test_a_unit_is_a_word_or_a_character_of_a_script_without_spaces(text, units):
    assert [unit.text for unit in spoken_units(text, 100)] == units


def test_units_know_what_they_end():
    endings = [unit.ending for unit in spoken_units("Well, he did. Then not", 100)]
    assert endings == [Ending.CLAUSE, Ending.WORD, Ending.SENTENCE, Ending.WORD, Ending.WORD]
    # A space ends a phrase where words need none.
    assert [unit.ending for unit in spoken_units("ไป มา", 100)] == [Ending.CLAUSE, Ending.WORD]


def test_merging_keeps_the_ends_of_sentences():
    units = spoken_units("a b c d e. " * 20, 60)
    assert len(units) <= 60
    assert sum(unit.ending is Ending.SENTENCE for unit in units) == 20


@given(TEXTS, st.integers(1, 50))
def test_units_add_up_to_the_text_and_are_no_more_than_asked_for(text, most):
    units = spoken_units(text, most)
    assert len(units) <= most
    assert all(unit.length > 0 and unit.text for unit in units)
    joined = text_of(units) if units else ""
    assert "".join(joined.split()) == "".join(text.split())
