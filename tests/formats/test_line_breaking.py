import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.formats.line_breaking import Ending, atoms, blocks, sentences, width_of


def lay_out(text, max_width=42, max_lines=2):
    return [block.lines for block in blocks(atoms(text, max_width), max_width, max_lines)]


def columns(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


TEXTS = st.text(max_size=200) | st.lists(
    st.sampled_from(
        ["one", "two.", "three,", "今日は", "、", "。", "한국어", "e\u0301", "👩‍👩‍👧", "x" * 90]
    ),
    max_size=40,
).map(" ".join)


@given(TEXTS, st.integers(2, 50), st.integers(1, 4))
@settings(max_examples=200)
def test_any_text_fits_and_loses_only_white_space(text, max_width, max_lines):
    laid = lay_out(text, max_width, max_lines)
    lines = [line for block in laid for line in block]
    assert all(1 <= len(block) <= max_lines for block in laid)
    assert all(line.strip() == line != "" for line in lines)
    assert all(columns(line) <= max_width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.lists(st.text("abc", min_size=1, max_size=10), min_size=1, max_size=60))
def test_words_that_fit_are_never_broken(words):
    lines = [line for block in lay_out(" ".join(words), 12, 2) for line in block]
    assert " ".join(lines).split(" ") == words


def test_what_fits_on_a_line_stays_on_it():
    assert lay_out("Music and video need a lot of space.") == [
        ("Music and video need a lot of space.",)
    ]
    assert lay_out("  \n ") == lay_out("") == []


def test_lines_are_about_equally_long():
    assert lay_out("She left the recording on the server last night.") == [
        ("She left the recording", "on the server last night.")
    ]


def test_a_line_ends_with_its_clause_rather_than_at_the_middle():
    assert lay_out("When the rain had stopped, we all went out of the house.") == [
        ("When the rain had stopped,", "we all went out of the house.")
    ]


def test_blocks_end_with_sentences():
    assert lay_out(
        "Testing testing, testing the audio transcription function. The teacher told the students "
        "to open the window. Can you send me the report before the weekend?"
    ) == [
        ("Testing testing, testing the", "audio transcription function."),
        ("The teacher told the", "students to open the window."),
        ("Can you send me the", "report before the weekend?"),
    ]


def test_no_last_word_is_left_alone():
    laid = lay_out("one two three four five six seven eight " * 2 + "nine ten")
    assert len(laid) == 2
    assert min(len(" ".join(block)) for block in laid) > 30


def test_a_word_wider_than_a_line_is_cut():
    assert lay_out("a " + "x" * 25, 10, 1) == [("a",), ("x" * 10,), ("x" * 10,), ("x" * 5,)]


def test_chinese_and_japanese_break_between_characters_but_not_before_their_stops():
    laid = lay_out("今日はとても良い天気です。", 10, 1)
    assert laid == [("今日はと",), ("ても良い",), ("天気です。",)]
    assert lay_out("「一二」三四五", 8, 1)[0] in {("「一二」",), ("「一",)}
    assert all(line[0] not in "」。、" for (line,) in lay_out("「一二」三、四五。六七八、九", 8, 1))


def test_korean_breaks_at_its_spaces():
    assert lay_out("안녕하세요 여러분 오늘은", 12, 1) == [("안녕하세요",), ("여러분",), ("오늘은",)]


def test_a_letter_keeps_its_marks_and_a_joined_emoji_its_parts():
    assert lay_out("e\u0301" * 8, 8, 1) == [("e\u0301" * 4,), ("e\u0301" * 4,)]
    family = "👩\u200d👩\u200d👧"
    assert lay_out(family * 2 + "👍🏽", 10, 1) == [(family,), (family,), ("👍🏽",)]
    assert lay_out("e" + "\u0301" * 30, 8, 1)[0] == ("e" + "\u0301" * 7,)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two.", 2),
        ('He said "no." Then he left.', 2),
        ("Mr. Smith met J. Doe, e.g. today.", 1),
        ("It is 3.5 percent.", 1),
        ("一。二！三", 3),
        ("ایک۔ دو۔", 2),
        ("एक। दो॥", 2),
        ("አንድ። ሁለት።", 2),
        ("Մեկ։ Երկու։", 2),
        ("Really?! Yes… No", 3),
        ("", 0),
    ],
)
def test_sentences_end_where_a_reader_would_say(text, count):
    words = atoms(text, 42)
    parts = sentences(words)
    assert len(parts) == count
    assert [atom for part in parts for atom in part] == words


def test_endings_and_widths():
    words = atoms("So, 今日は! a", 42)
    assert words[0].ending is Ending.CLAUSE
    assert [atom.text for atom in words] == ["So,", "今", "日", "は!", "a"]
    assert [atom.has_space for atom in words] == [False, True, False, False, True]
    assert width_of(words) == len("So, ") + 7 + len(" a")
    assert width_of(words[1:2]) == 2
    assert width_of([]) == 0
    assert [block.ending for block in blocks(words, 42, 1)] == [Ending.WORD]


THAI = (
    "ประเทศไทยมีวัฒนธรรมที่เก่าแก่และงดงามผู้คนเป็นมิตรและอาหารอร่อยมากเราควรไปเที่ยวที่นั่นสักครั้ง"
    "ในชีวิตเพื่อเรียนรู้ประวัติศาสตร์และได้เห็นวัดวาอารามที่มีชื่อเสียงไปทั่วโลก"
)


@pytest.mark.parametrize("max_width", [10, 17, 21, 42])
def test_thai_breaks_between_words(max_width):
    lines = [line for block in lay_out(THAI, max_width) for line in block]
    assert "".join(lines) == THAI
    for line, following in itertools.pairwise(lines):
        assert line[-1] not in "เแโใไ"
        assert unicodedata.category(following[0]) != "Mn"
        assert following[0] not in "ะาำๆฯ"
    if max_width > 13:
        # The longest word fits, so that no word is cut.
        assert "|".join(lines).count("|") == "|".join(lay_out_words(THAI, lines)).count("|")


def lay_out_words(text, lines):
    """Return the lines again, put together from whole words."""
    out, ends, at = [""], set(), 0
    for line in lines[:-1]:
        at += len(line)
        ends.add(at)
    at = 0
    for atom in atoms(text, 1000):
        out[-1] += atom.text
        at += len(atom.text)
        if at in ends:
            out.append("")
    return out


@given(
    st.lists(
        st.sampled_from(["เที่ยว", "ໂຮງຮຽນ", "ខ្មែរ", "မြန်မာ", "โรงเรียน", "น้ำ", "日本", "x"]),
        max_size=40,
    ),
    st.integers(6, 50),
)
def test_no_script_is_broken_inside_a_cluster(parts, max_width):
    lines = [line for block in lay_out("".join(parts), max_width) for line in block]
    assert "".join(lines) == "".join(parts)
    for line, following in itertools.pairwise(lines):
        assert line[-1] not in "เแโใไເແໂໃໄ"
        assert unicodedata.category(following[0]) not in ("Mn", "Mc")
        # A consonant that stands below another one hangs on this sign.
        assert line[-1] not in "\u17d2\u1039"
        assert following[1:2] != "\u103a"
