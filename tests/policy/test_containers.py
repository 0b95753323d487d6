"""Containers that engines cannot read, as far as their refusals tell."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.policy.containers import BELIEVED_S, REFUSALS, ContainerBook

MODELS = ("small", "large")
KINDS = ("mp4", "webm", "wav", "")


def test_one_refusal_may_have_another_cause() -> None:
    book = ContainerBook()
    book.refused("small", "mp4", 0.0)
    assert not book.is_unreadable("small", "mp4", 1.0)
    book.refused("small", "mp4", 1.0)
    assert book.is_unreadable("small", "mp4", 2.0)
    assert not book.is_unreadable("large", "mp4", 2.0)
    assert not book.is_unreadable("small", "webm", 2.0)


def test_engines_are_upgraded() -> None:
    book = ContainerBook()
    for _ in range(9):
        book.refused("small", "mp4", 0.0)
    assert book.is_unreadable("small", "mp4", BELIEVED_S)
    assert not book.is_unreadable("small", "mp4", BELIEVED_S + 1)
    # What was believed before counts for nothing.
    book.refused("small", "mp4", BELIEVED_S + 2)
    assert not book.is_unreadable("small", "mp4", BELIEVED_S + 3)


def test_refusals_far_apart_are_two_first_ones() -> None:
    book = ContainerBook()
    book.refused("small", "mp4", 0.0)
    book.refused("small", "mp4", BELIEVED_S + 1)
    assert not book.is_unreadable("small", "mp4", BELIEVED_S + 2)


def test_a_file_that_is_read_forgives_a_refusal() -> None:
    """One upload in a thousand that fails by chance must not have all others decoded."""
    book = ContainerBook()
    for _ in range(5):
        book.refused("small", "mp4", 0.0)
        book.read("small", "mp4")
    assert not book.is_unreadable("small", "mp4", 1.0)


def test_wav_is_what_the_router_sends_itself() -> None:
    book = ContainerBook()
    for _ in range(9):
        book.refused("small", "wav", 0.0)
    assert not book.is_unreadable("small", "wav", 0.0)
    assert book.unreadable("small", 0.0) == ()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["refused", "read"]),
        st.sampled_from(MODELS),
        st.sampled_from(KINDS),
        st.sampled_from([0.0, 1.0, BELIEVED_S / 2, BELIEVED_S + 1]),
    ),
    max_size=60,
)


@given(EVENTS)
def test_any_history_gives_what_the_last_refusals_in_a_row_say(
    events: list[tuple[str, str, str, float]],
) -> None:
    book, now = ContainerBook(), 0.0
    row: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event, model, kind, later_s in events:
        now += later_s
        if event == "read":
            book.read(model, kind)
            row[model, kind] = []
        else:
            book.refused(model, kind, now)
            if row[model, kind] and now - row[model, kind][-1] > BELIEVED_S:
                row[model, kind] = []
            row[model, kind].append(now)
        expected = {
            (model, kind)
            for (model, kind), times in row.items()
            if kind != "wav" and len(times) >= REFUSALS and now - times[-1] <= BELIEVED_S
        }
        for each in MODELS:
            kinds = tuple(sorted(kind for model, kind in expected if model == each))
            assert book.unreadable(each, now) == kinds
            assert tuple(k for k in sorted(KINDS) if book.is_unreadable(each, k, now)) == kinds
