import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, empty_registry, ready_registry, ticket

from vllm_router.scheduling.admission import admit, drain_rate
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.work import QueueFull, Ticket, Urgency


def ready_pool() -> Pool:
    """One engine of a known speed: 8 windows per second are expected of it before measuring."""
    registry, (engine,) = ready_registry(1)
    engine.intercept_s, engine.slope_s, engine.limit = 0.2, 0.1, 8.0
    return registry.pools[MODEL]


def waiting(pool: Pool, windows: int, urgency: Urgency = Urgency.LONG) -> Pool:
    pool.queue.add(ticket(windows, urgency))
    return pool


def refusal(pool: Pool, settings: FleetSettings, now: float = 0.0, **of: object) -> QueueFull:
    with pytest.raises(QueueFull) as refused:
        admit(pool, ticket(**of), settings, now)
    return refused.value


def answer(pool: Pool, new: Ticket, settings: FleetSettings) -> QueueFull | None:
    try:
        admit(pool, new, settings, 0.0)
    except QueueFull as full:
        return full
    return None


def test_an_empty_queue_takes_anything() -> None:
    settings = FleetSettings(max_queue_audio_s=1.0, max_queue_wait_s=0.0)
    admit(ready_pool(), ticket(windows=1000), settings, 0.0)


def test_without_bounds_a_full_queue_takes_anything() -> None:
    settings = FleetSettings(max_queue_audio_s=None, max_queue_wait_s=None)
    admit(waiting(ready_pool(), 100_000), ticket(windows=1000), settings, 0.0)


def test_audio_is_counted_with_the_newcomer() -> None:
    settings = FleetSettings(max_queue_audio_s=300.0, max_queue_wait_s=None)
    pool = waiting(ready_pool(), 7)
    admit(pool, ticket(windows=3), settings, 0.0)
    full = refusal(pool, settings, windows=4)
    assert full.reason == "210 s of audio are waiting for m."


def test_who_is_refused_for_the_audio_comes_back_when_the_excess_has_drained() -> None:
    settings = FleetSettings(max_queue_audio_s=3000.0, max_queue_wait_s=None)
    pool = waiting(ready_pool(), 100)
    assert refusal(pool, settings, windows=40).retry_after_s == pytest.approx(40 / 8)


def test_who_is_refused_for_the_wait_comes_back_when_it_is_short_enough() -> None:
    settings = FleetSettings(max_queue_wait_s=20.0)
    pool = waiting(ready_pool(), 400)
    full = refusal(pool, settings, urgency=Urgency.LONG)
    assert full.retry_after_s == pytest.approx(400 / 8 - 20)
    assert full.reason == "The wait for m is expected to be longer than 20 s."


def test_short_work_does_not_wait_for_long_work() -> None:
    settings = FleetSettings(max_queue_wait_s=20.0)
    pool = waiting(ready_pool(), 400)
    admit(pool, ticket(urgency=Urgency.SHORT), settings, 0.0)
    waiting(pool, 400, Urgency.SHORT)
    assert refusal(pool, settings, urgency=Urgency.SHORT).retry_after_s == pytest.approx(30.0)


def test_nobody_is_told_to_come_back_in_less_than_a_second_or_after_half_an_hour() -> None:
    settings = FleetSettings(max_queue_audio_s=100.0, max_queue_wait_s=None)
    assert refusal(waiting(ready_pool(), 3), settings, windows=1).retry_after_s == 1.0
    assert refusal(waiting(ready_pool(), 3), settings, windows=90_000).retry_after_s == 1800.0


def test_where_nothing_gets_done_the_wait_is_the_longest() -> None:
    pool = empty_registry().pool(MODEL)
    assert drain_rate(pool, 0.0) == 0.0
    assert refusal(waiting(pool, 1), FleetSettings(), urgency=Urgency.LONG).retry_after_s == 1800.0


def test_a_queue_of_no_length_in_audio_is_divided_by_nothing() -> None:
    pool = ready_pool()
    silent = ticket()
    silent.audio_s = 0.0
    pool.queue.add(silent)
    full = refusal(pool, FleetSettings(max_queue_audio_s=10.0), windows=1)
    assert full.retry_after_s >= 1.0


def test_before_the_queue_has_been_busy_the_engines_are_trusted_to_do_more_than_was_asked() -> None:
    pool = ready_pool()
    pool.drain.note(1, 100.0)
    assert drain_rate(pool, 101.0) == pytest.approx(8.0)
    pool.busy_since = 100.0
    assert drain_rate(pool, 104.9) == pytest.approx(8.0)


def test_once_the_queue_has_been_busy_what_was_measured_holds() -> None:
    pool = ready_pool()
    pool.busy_since = 100.0
    for tenth in range(200):
        pool.drain.note(1, 100.0 + tenth / 5)
    assert drain_rate(pool, 140.0) == pytest.approx(5.0, rel=0.1)


def test_more_than_the_engines_are_thought_to_do_is_believed_when_it_was_measured() -> None:
    pool = ready_pool()
    for tenth in range(400):
        pool.drain.note(5, 100.0 + tenth / 10)
    assert drain_rate(pool, 140.0) == pytest.approx(50.0, rel=0.1)


@given(
    st.lists(st.tuples(st.integers(1, 400), st.sampled_from(Urgency)), max_size=20),
    st.tuples(st.integers(1, 400), st.sampled_from(Urgency)),
    st.none() | st.floats(1, 10_000),
    st.none() | st.floats(0, 300),
    st.floats(0, 100),
)
def test_who_passes_is_within_the_bounds_and_who_does_not_is_told_a_time(
    queued: list[tuple[int, Urgency]],
    newcomer: tuple[int, Urgency],
    most_audio_s: float | None,
    most_wait_s: float | None,
    peak_per_s: float,
) -> None:
    pool = ready_pool()
    pool.peak_per_s = peak_per_s
    for windows, urgency in queued:
        waiting(pool, windows, urgency)
    new = ticket(*newcomer)
    settings = FleetSettings(max_queue_audio_s=most_audio_s, max_queue_wait_s=most_wait_s)
    before = len(pool.queue)
    full = answer(pool, new, settings)
    assert len(pool.queue) == before, "asking changes nothing"
    if full is not None:
        assert before > 0
        assert 1.0 <= full.retry_after_s <= 1800.0
        return
    if before and most_audio_s is not None:
        assert pool.queue.audio_s + new.audio_s <= most_audio_s
    if before and most_wait_s is not None:
        ahead = pool.queue.short if new.urgency is Urgency.SHORT else pool.queue
        rate = drain_rate(pool, 0.0)
        wait_s = ahead.windows / rate if rate else (math.inf if ahead.windows else 0.0)
        assert 0.7 * wait_s <= most_wait_s, "the estimate may be twice the truth"
