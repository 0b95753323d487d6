from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.heartbeat import BEAT_S, LATE_S, Heartbeat


def test_without_a_beat_nothing_is_known_of_a_standstill() -> None:
    assert Heartbeat().ran_since(0.0, 1e9)


def test_a_missing_beat_tells_before_the_next_one_comes() -> None:
    heartbeat = Heartbeat()
    heartbeat.beat(10.0)
    assert heartbeat.ran_since(5.0, 10.0 + BEAT_S + LATE_S)
    assert not heartbeat.ran_since(5.0, 17.0)
    assert not heartbeat.ran_since(10.1, 17.0)


def test_what_began_before_the_end_of_a_standstill_spans_it_for_good() -> None:
    heartbeat = Heartbeat()
    heartbeat.beat(10.0)
    heartbeat.beat(17.0)
    heartbeat.beat(17.25)
    assert not heartbeat.ran_since(16.9, 17.3)
    assert heartbeat.ran_since(17.0, 17.3)


@given(
    st.lists(st.floats(0.01, 3.0), min_size=1, max_size=30), st.floats(0.0, 60.0), st.floats(0, 0.7)
)
def test_a_span_is_clean_unless_a_gap_between_two_beats_reaches_into_it(
    gaps: list[float], began: float, more: float
) -> None:
    heartbeat = Heartbeat()
    now = 0.0
    heartbeat.beat(now)
    ends = []
    for gap in gaps:
        late = now + BEAT_S + LATE_S
        now += gap
        heartbeat.beat(now)
        if now > late:
            ends.append(now)
    began = min(began, now)
    assert heartbeat.ran_since(began, now + more) == all(began >= end for end in ends)
