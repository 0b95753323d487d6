import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.text_breaks import clusters, has_unspaced_script, line_parts

THAI_WORDS = [
    "ประเทศไทย",
    "มี",
    "วัฒนธรรม",
    "ที่",
    "เก่า",
    "แก่",
    "และ",
    "งดงาม",
    "ผู้คน",
    "เป็น",
    "มิตร",
    "อาหาร",
    "อร่อย",
    "มาก",
    "เรา",
    "ควร",
    "ไป",
    "เที่ยว",
    "โรงเรียน",
    "ใน",
    "ครั้ง",
    "ชีวิต",
    "เพื่อ",
    "เรียน",
    "รู้",
    "ประวัติศาสตร์",
    "น้ำ",
    "เด็กๆ",
    "ฯลฯ",
    "เกาะ",
    "แพะ",
    "โต๊ะ",
]
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(THAI_WORDS), max_size=30).map("".join)
SURROGATES = st.text(st.characters(categories=["Cs", "Lo", "Mn"]), max_size=20)


@given(TEXTS | SURROGATES)
def test_the_parts_add_up_to_the_text(text):
    assert "".join(clusters(text)) == text
    assert "".join(line_parts(text)) == text
    assert all(clusters(text))
    assert all(line_parts(text))


@given(TEXTS | SURROGATES)
def test_no_part_begins_with_a_mark_or_ends_with_a_leading_vowel(text):
    for parts in (list(clusters(text)), list(line_parts(text))):
        for before, part in itertools.pairwise(parts):
            assert before[-1] not in "เแโใไເແໂໃໄ"
            assert part[0] not in "ะาำๅๆฯະາຳໆຯ"
            is_mark = unicodedata.category(part[0]) in ("Mn", "Mc", "Me")
            assert not is_mark


@pytest.mark.parametrize(
    "marked",
    [
        "ประเทศไทย|มี|วัฒนธรรม|ที่|งดงาม",
        "เด็กๆ|ไป|โรงเรียน",
        "ພາສາ|ລາວ|ເປັນ|ພາສາ|ທີ່|ໃຊ້|ໃນ|ປະເທດ|ລາວ",
        "ភាសាខ្មែរ|ជា|ភាសាផ្លូវការ|របស់|ប្រទេស|កម្ពុជា",
        "စကား|သည်|မြန်မာ",
        "བོད་|ཡིག་|ནི་|བོད་",
        "सत्यमेव",
        "привет",
    ],
)
def test_words_are_found_without_spaces(marked):
    assert "|".join(line_parts(marked.replace("|", ""))) == marked


@pytest.mark.parametrize(
    "marked",
    [
        "a|b|é|ж|日|カ|가",
        "e\u0301|e",
        "👩\u200d👩\u200d👧|👍🏽|🇹🇭|🇱🇦|1️⃣",
        "क्ष|त्रि|य",
        "เกาะ|မြန်|မာ",
        "ที่|ไป|น้ำ",
        "ᄒ\u1161\u11ab|글",
    ],
)
def test_a_cluster_is_what_is_seen_as_one_character(marked):
    assert "|".join(clusters(marked.replace("|", ""))) == marked


def test_which_texts_need_a_dictionary():
    assert has_unspaced_script("ok ไทย")
    assert not any(map(has_unspaced_script, ("plain", "жизнь", "今日は", "한국어", "हिन्दी", "")))
