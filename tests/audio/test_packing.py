"""What goes into a piece; that no speech is lost by it is tested in test_split."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.levels import RATE_HZ, Samples
from vllm_router.audio.packing import (
    KEPT_PAUSE,
    PAD,
    REST,
    PieceRoom,
    how_many,
    lead_of,
    packed_length,
    tail_of,
)

S = RATE_HZ


def spans(*layout: tuple[float, float]) -> list[Samples]:
    """Return spans of (pause before, length) in seconds."""
    found, at = [], 0
    for pause, length in layout:
        begin = at + round(pause * S)
        at = begin + round(length * S)
        found.append((begin, at))
    return found


def room(limit_s: float = 30.0, *, end_s: float | None = None) -> PieceRoom:
    return PieceRoom(round(limit_s * S), None, None if end_s is None else round(end_s * S), REST)


def test_more_is_awaited_while_there_is_room() -> None:
    speech = spans((1, 10), (1, 10))
    assert how_many(speech, room()) is None
    assert how_many(speech, room(end_s=30)) == 2


def test_an_end_that_may_be_short_is_awaited() -> None:
    speech = spans((1, 14), (1, 13), (1, 5))
    assert how_many(speech, room()) is None
    assert how_many([*speech, (60 * S, 70 * S)], room()) == 2


def test_a_piece_is_cut_in_the_longest_pause_that_leaves_it_full() -> None:
    assert how_many(spans((1, 9), (1, 9), (0.6, 8), (0.2, 1.2), (0.2, 30)), room()) == 2
    assert how_many(spans((1, 9), (1, 9), (0.6, 8), (0.6, 30)), room()) == 3
    assert how_many(spans((1, 9), (1, 9), (0.15, 8), (0.15, 30)), room()) == 3


def test_long_pauses_count_with_what_is_kept_of_them() -> None:
    speech = spans((1, 9), (100, 9), (100, 5), (3, 30))
    assert packed_length(speech[:3], PAD, PAD) == 23 * S + 2 * KEPT_PAUSE + 2 * PAD
    assert how_many(speech, room()) == 3


def test_a_span_longer_than_a_piece_fits_nowhere() -> None:
    assert how_many(spans((1, 45)), room()) == 0


def test_the_end_is_shared_evenly() -> None:
    speech = spans((0, 9), (0.3, 9), (0.3, 9), (0.3, 4))
    assert how_many(speech, room(end_s=40)) == 2


def test_of_a_short_pause_each_side_has_half() -> None:
    (first, second) = spans((0.1, 1), (0.3, 1))
    assert lead_of(first, None) == round(0.1 * S)
    assert lead_of(second, first[1]) == tail_of(first, second, None) == round(0.15 * S)
    assert tail_of(second, None, second[1] + 5) == 5
    assert tail_of(second, None, None) == PAD


@given(
    st.lists(st.tuples(st.floats(0.03, 9), st.floats(0.03, 40)), min_size=1, max_size=20),
    st.sampled_from([4.0, 30.0]),
    st.booleans(),
)
def test_a_piece_is_never_too_long(
    layout: list[tuple[float, float]], limit_s: float, has_ended: bool
) -> None:
    speech = spans(*layout)
    end_s = (speech[-1][1] + 1) / S if has_ended else None
    where = room(limit_s, end_s=end_s)
    count = how_many(speech, where)
    lead = lead_of(speech[0], None)
    tails = [tail_of(a, b, None) for a, b in pairwise(speech)]
    tails.append(tail_of(speech[-1], None, where.end))
    if count:
        assert packed_length(speech[:count], lead, tails[count - 1]) <= where.limit
    elif count == 0:
        assert packed_length(speech[:1], lead, tails[0]) > where.limit
    else:
        assert not has_ended
        assert packed_length(speech, lead, tails[-1]) <= where.limit + where.rest
