import itertools

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.spans import SpanFinder

Spans = list[tuple[int, int]]


def merged(parts: Spans) -> Spans:
    spans: Spans = []
    for a, b in parts:
        assert a < b
        if spans and spans[-1][1] == a:
            spans[-1] = (spans[-1][0], b)
        else:
            spans.append((a, b))
    return spans


def found(frames: list[float], step: int = 1 << 20) -> Spans:
    finder = SpanFinder(shortest=3, shortest_pause=2)
    parts: Spans = []
    for at in range(0, len(frames), step):
        parts += finder.feed(frames[at : at + step])
        assert finder.known <= finder.at
        assert not parts or parts[-1][1] <= finder.known
    return merged(parts + finder.flush())


def test_a_span_lasts_while_speech_is_likely() -> None:
    assert found([0.1, 0.6, 0.9, 0.9, 0.2, 0.2, 0.1]) == [(1, 4)]
    assert found([0.9] * 5) == [(0, 5)]


def test_doubt_ends_no_span_and_begins_none() -> None:
    assert found([0.4, 0.4, 0.6, 0.4, 0.4, 0.4, 0.1, 0.1]) == [(2, 6)]


def test_a_short_pause_is_part_of_a_span() -> None:
    assert found([0.9, 0.9, 0.1, 0.9, 0.9]) == [(0, 5)]
    assert found([0.9, 0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.9]) == [(0, 3), (5, 8)]


def test_what_is_short_is_no_speech() -> None:
    assert found([0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.9]) == [(4, 7)]


def test_a_span_is_told_before_it_ends() -> None:
    finder = SpanFinder(shortest=3, shortest_pause=2)
    assert finder.feed([0.9, 0.9]) == []
    assert finder.known == 0
    assert finder.feed([0.9, 0.9]) == [(0, 4)]
    assert finder.known == 4
    assert finder.feed([0.1]) == []
    assert finder.known == 4
    assert finder.feed([0.1, 0.1]) == []
    assert finder.known == 7
    assert repr(finder) == "<SpanFinder at frame 7, 7 known>"


@given(st.lists(st.sampled_from([0.0, 0.4, 0.9]), max_size=60), st.integers(1, 60))
def test_spans_do_not_depend_on_how_frames_came(frames: list[float], step: int) -> None:
    spans = found(frames)
    assert found(frames, step) == spans
    for a, b in spans:
        assert b - a >= 3
        assert frames[a] == 0.9
    assert all(b[0] - a[1] >= 2 for a, b in itertools.pairwise(spans))
