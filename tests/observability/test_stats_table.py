from hypothesis import given
from hypothesis import strategies as st

from vllm_router.observability.stats_table import MAX_SAMPLES, RequestStats, stats_table
from vllm_router.scheduling.engine import Engine, EngineId, EngineSpec
from vllm_router.scheduling.engine_metrics import read_engine_stats

A = EngineId("http://a")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_yet_has_no_percentiles() -> None:
    assert RequestStats(60, Clock()).figures(A) == (0.0, None, None)


def test_rates_and_percentiles_are_over_the_window() -> None:
    clock = Clock()
    stats = RequestStats(10, clock)
    for seconds in range(1, 101):
        stats.note(A, float(seconds), 2.0)
    assert stats.figures(A) == (20.0, 50.0, 95.0)
    clock.now_s = 10.5
    stats.note(A, 3.0, 5.0)
    assert stats.figures(A) == (0.5, 3.0, 3.0)
    clock.now_s = 30
    assert stats.figures(A) == (0.0, None, None)


def test_a_full_memory_looks_back_as_far_as_it_reaches() -> None:
    clock = Clock()
    stats = RequestStats(1000, clock)
    for number in range(2 * MAX_SAMPLES):
        clock.now_s = number / 1024
        stats.note(A, 1.0, 1.0)
    rate, _, _ = stats.figures(A)
    assert 1000 < rate < 1050


def test_an_engine_that_is_gone_is_forgotten() -> None:
    stats = RequestStats(60, Clock())
    stats.note(A, 1, 1)
    stats.forget(A)
    stats.forget(A)
    assert stats.figures(A) == (0.0, None, None)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200))
def test_percentiles_are_of_what_was_seen(times: list[float]) -> None:
    stats = RequestStats(60, Clock())
    for seconds in times:
        stats.note(A, seconds, 1.0)
    _, median, p95 = stats.figures(A)
    assert median is not None
    assert p95 is not None
    assert median in times
    assert min(times) <= median <= p95 <= max(times)


def test_the_table_has_a_row_an_engine_in_straight_columns() -> None:
    known = Engine(EngineSpec(A, A, ("whisper", "other")), 0)
    known.in_flight = 3
    known.stats = read_engine_stats(
        b'vllm:num_requests_running{engine="0"} 12\nvllm:num_requests_waiting{engine="0"} 4\n'
    )
    unknown = Engine(EngineSpec(EngineId("b"), "http://b:8000"), 1)
    stats = RequestStats(10, Clock())
    stats.note(A, 1.234, 50)
    lines = stats_table([known, unknown], stats, 7).splitlines()
    assert lines[0].split("  ")[0] == "engine"
    assert set(lines[1]) == {"-"}
    assert lines[2].split() == [
        *("http://a", "whisper,other", "discovered", "12", "4", "3", "5.0", "1.23", "1.23"),
    ]
    assert lines[3].split() == ["http://b:8000", "-", "discovered", "-", "-", "0", "0.0", "-", "-"]
    assert lines[4] == "waiting in the router's queue: 7"
    assert len({line.index("discovered") for line in lines[2:4]}) == 1
