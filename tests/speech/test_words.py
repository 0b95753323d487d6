import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.speech.words import WordErrors, aligned, normal_words, pooled, word_errors

words = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=12)


@pytest.mark.parametrize(
    ("said", "heard", "wrong"),
    [
        ("the train leaves", "the train leaves", 0),
        ("The train, leaves!", "the  train\nleaves", 0),
        ("the train leaves", "the plane leaves", 1),
        ("the train leaves", "the leaves", 1),
        ("the train leaves", "the fast train leaves", 1),
        ("the train leaves", "", 3),
        ("", "you", 1),
        ("one two three four", "two three four one", 2),
    ],
)
def test_substitutions_insertions_and_deletions_each_count_once(
    said: str, heard: str, wrong: int
) -> None:
    assert word_errors(said, heard).wrong == wrong


def test_an_apostrophe_of_either_kind_belongs_to_its_word() -> None:
    assert normal_words("Don\N{RIGHT SINGLE QUOTATION MARK}t 'quote' it's") == [
        "don't",
        "quote",
        "it's",
    ]


@pytest.mark.parametrize(
    ("said", "heard", "lost", "invented"),
    [
        ("the train leaves", "the leaves", 1, 0),
        ("the train leaves", "the train leaves thank you", 0, 2),
        ("the train leaves", "the plane leaves", 0, 0),
        ("mister forty-two", "Mr. Forty two", 0, 0),
        ("one two three four five", "six one two three four", 1, 1),
    ],
)
def test_lost_and_invented_words_are_told_from_replaced_ones(
    said: str, heard: str, lost: int, invented: int
) -> None:
    errors = word_errors(said, heard)
    assert (errors.lost, errors.invented) == (lost, invented)


@given(words, words)
def test_an_alignment_has_every_word_of_both_once_and_in_order(
    left: list[str], right: list[str]
) -> None:
    pairs = aligned(left, right)
    assert [mine for mine, _ in pairs if mine is not None] == list(range(len(left)))
    assert [theirs for _, theirs in pairs if theirs is not None] == list(range(len(right)))
    assert (None, None) not in pairs


def test_pooling_weighs_recordings_by_their_words() -> None:
    total = pooled([WordErrors(1, 2), WordErrors(0, 98)])
    assert (total.wrong, total.said, total.rate) == (1, 100, 0.01)


def test_nothing_said_and_nothing_heard_is_without_error() -> None:
    assert word_errors("", "...").rate == 0


@given(words, words)
def test_the_distance_is_symmetric_and_bounded(left: list[str], right: list[str]) -> None:
    wrong = word_errors(" ".join(left), " ".join(right)).wrong
    assert wrong == word_errors(" ".join(right), " ".join(left)).wrong
    assert abs(len(left) - len(right)) <= wrong <= max(len(left), len(right))


@given(words, words, words)
def test_the_distance_obeys_the_triangle_rule(a: list[str], b: list[str], c: list[str]) -> None:
    def distance(left: list[str], right: list[str]) -> int:
        return word_errors(" ".join(left), " ".join(right)).wrong

    assert distance(a, c) <= distance(a, b) + distance(b, c)
