"""What engines cannot do, as far as their refusals tell."""

import math

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.capabilities import UNKNOWN
from vllm_router.scheduling.capability_book import (
    BELIEVED_S,
    LANGUAGE,
    MAX_AUDIO_S,
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    REFUSALS,
    VERBOSE_JSON,
    CapabilityBook,
    container,
)

MP4 = container("mp4")


def refused(
    book: CapabilityBook,
    fact: str = LANGUAGE,
    engines: str = "a",
    now: float = 0.0,
    *,
    ready: int = 2,
    changed_at: float = -math.inf,
    is_certain: bool = True,
    bound: float = 0.0,
) -> bool:
    return book.refused(
        "m",
        fact,
        engines,
        now,
        ready=ready,
        changed_at=changed_at,
        is_certain=is_certain,
        bound=bound,
    )


def learned(book: CapabilityBook, now: float = 1.0, changed_at: float = -math.inf):  # type: ignore[no-untyped-def]
    return book.learned("m", now, changed_at)


def test_one_engine_of_two_is_not_believed_however_often_it_refuses() -> None:
    book = CapabilityBook()
    assert not any(refused(book) for _ in range(9))
    assert learned(book) == UNKNOWN
    assert refused(book, engines="b")
    assert learned(book).language is False
    assert book.learned("other", 1.0, 0.0) == UNKNOWN


def test_it_is_news_once() -> None:
    book = CapabilityBook()
    assert [refused(book, engines=engine) for engine in "abc"] == [False, True, False]
    assert refused(book, fact=VERBOSE_JSON, engines="ab")


def test_the_only_engine_is_believed_at_once_if_it_names_the_reason() -> None:
    book = CapabilityBook()
    assert refused(book, VERBOSE_JSON, ready=1)
    assert learned(book).verbose_json is False


def test_the_only_engine_must_repeat_what_may_have_another_reason() -> None:
    book = CapabilityBook()
    assert not refused(book, MP4, ready=1, is_certain=False)
    assert learned(book).unreadable == frozenset()
    assert refused(book, MP4, ready=1, is_certain=False)
    assert learned(book).unreadable == {"mp4"}


def test_what_an_engine_has_just_done_is_not_unlearned_by_refusals() -> None:
    """Damaged files are refused too: they must not have all sound ones decoded."""
    book = CapabilityBook()
    book.shown("m", MP4, 0.0)
    for now in (0.0, 1.0, BELIEVED_S):
        assert not refused(book, MP4, engines="ab", now=now, changed_at=-1.0)
    assert not book.has_doubts
    # An engine that became ready since may be another one, and what is long ago says little.
    assert refused(book, MP4, engines="ab", now=5.0, changed_at=1.0)
    late = CapabilityBook()
    late.shown("m", MP4, 0.0)
    assert refused(late, LANGUAGE, engines="ab", now=1.0)
    assert refused(late, MP4, engines="ab", now=BELIEVED_S + 1.0)


def test_what_was_shown_is_bounded() -> None:
    book = CapabilityBook()
    for index in range(MAX_ENTRIES + 10):
        book.shown("m", str(index), 0.0)
    assert len(book._shown) == MAX_ENTRIES


def test_a_success_forgives_a_refusal() -> None:
    """One upload in a thousand that fails by chance must not have all others decoded."""
    book = CapabilityBook()
    for _ in range(5):
        refused(book, MP4, ready=1, is_certain=False)
        assert book.accepted("m", MP4)
        assert not book.has_doubts
        assert not book.accepted("m", MP4)
    assert learned(book) == UNKNOWN


def test_engines_are_upgraded() -> None:
    book = CapabilityBook()
    refused(book, engines="ab", now=0.0)
    assert learned(book, BELIEVED_S).language is False
    assert learned(book, BELIEVED_S + 1).language is None
    assert not book.has_doubts
    # What was believed before counts for nothing.
    refused(book, engines="a", now=BELIEVED_S + 2)
    assert learned(book, BELIEVED_S + 3).language is None


def test_refusals_far_apart_are_two_first_ones() -> None:
    book = CapabilityBook()
    refused(book, engines="a", now=0.0)
    refused(book, engines="b", now=BELIEVED_S + 1)
    assert learned(book, BELIEVED_S + 2) == UNKNOWN


def test_an_engine_that_is_new_or_back_has_all_asked_anew() -> None:
    book = CapabilityBook()
    refused(book, engines="ab", now=5.0)
    assert learned(book, 6.0, changed_at=4.0).language is False
    assert learned(book, 8.0, changed_at=7.0) == UNKNOWN
    assert not book.has_doubts
    refused(book, engines="a", now=9.0)
    refused(book, engines="b", now=11.0, changed_at=10.0)
    assert learned(book, 12.0, changed_at=10.0) == UNKNOWN


def test_the_narrowest_limit_counts_until_more_is_taken() -> None:
    book = CapabilityBook()
    assert refused(book, MAX_AUDIO_S, ready=1, bound=700.0)
    assert not refused(book, MAX_AUDIO_S, ready=1, bound=900.0)
    assert refused(book, MAX_AUDIO_S, ready=1, bound=600.0)
    assert learned(book).max_audio_s == 600.0
    assert not book.accepted("m", MAX_AUDIO_S, 600.0)
    assert learned(book).max_audio_s == 600.0
    assert book.accepted("m", MAX_AUDIO_S, 601.0)
    assert learned(book).max_audio_s is None
    refused(book, MAX_FILE_BYTES, ready=1, bound=1e6)
    assert learned(book).max_file_bytes == 1_000_000


def test_memory_is_bounded() -> None:
    book = CapabilityBook()
    for index in range(MAX_ENTRIES + 100):
        refused(book, container(str(index)), engines="ab")
    assert len(book) == MAX_ENTRIES
    assert str(MAX_ENTRIES + 99) in learned(book).unreadable
    assert "0" not in learned(book).unreadable


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["refused", "accepted", "waited", "changed"]),
        st.sampled_from([LANGUAGE, VERBOSE_JSON, MP4, MAX_AUDIO_S]),
        st.sampled_from("abc"),
        st.floats(0.0, BELIEVED_S),
        st.integers(1, 3),
        st.booleans(),
    )
)


@given(STEPS)
def test_only_refusals_that_nothing_refuted_since_are_believed(
    steps: list[tuple[str, str, str, float, int, bool]],
) -> None:
    book, now, changed_at = CapabilityBook(), 0.0, -math.inf
    standing: dict[str, list[tuple[float, str]]] = {}
    for what, fact, engine, wait_s, ready, is_certain in steps:
        match what:
            case "refused":
                refused(
                    book, fact, engine, now,
                    ready=ready, changed_at=changed_at, is_certain=is_certain, bound=60.0,
                )  # fmt: skip
                standing.setdefault(fact, []).append((now, engine))
            case "accepted":
                book.accepted("m", fact, 1000.0)
                standing.pop(fact, None)
            case "waited":
                now += wait_s
            case "changed":
                now += 1.0
                changed_at = now
                standing.clear()
                now += 1.0
        known = book.learned("m", now, changed_at)
        for name, is_known in (
            (LANGUAGE, known.language is False),
            (VERBOSE_JSON, known.verbose_json is False),
            (MP4, "mp4" in known.unreadable),
            (MAX_AUDIO_S, known.max_audio_s is not None),
        ):
            recent = [at for at, _ in standing.get(name, []) if now - at <= BELIEVED_S]
            if is_known:
                assert recent
        assert known.language is not True
        assert known.verbose_json is not True
        assert book.has_doubts == bool(len(book))
        assert known.max_audio_s in (None, 60.0)
    assert REFUSALS == 2
