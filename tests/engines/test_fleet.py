import pytest

from vllm_router.engines.engine import EngineId
from vllm_router.engines.registry import FleetSettings
from vllm_router.engines.work import OutcomeKind, QueueFull, Refusal

FIXED = FleetSettings(max_windows=4)


def test_work_goes_to_the_engine_that_would_be_done_first(driver):
    fleet = driver(3)
    taken = [fleet.start() for _ in range(6)]
    assert sorted(charge.engine_id for charge in taken) == sorted(fleet.ids * 2)


def test_an_engine_at_its_limit_takes_nothing_until_something_ends(driver):
    fleet = driver(1, FIXED)
    taken = [fleet.start() for _ in range(5)]
    assert taken[4] is None
    assert fleet.fleet.waiting("m") == 1
    fleet.end(taken[0])
    assert len(fleet.charges()) == 1
    assert fleet.fleet.waiting() == 0


def test_short_work_goes_before_long_work_that_came_first(driver):
    fleet = driver(1, FleetSettings(max_windows=1))
    first = fleet.start()
    fleet.submit(long=True)
    short = fleet.submit()
    fleet.end(first)
    assert [charge.ticket for charge in fleet.charges()] == [short]


def test_part_of_the_limit_is_kept_for_short_work(driver):
    fleet = driver(1, FleetSettings(max_windows=8))
    long = [fleet.start(long=True) for _ in range(8)]
    assert sum(charge is not None for charge in long) == 7
    assert fleet.start() is not None


def test_a_request_of_more_windows_than_the_limit_runs_alone(driver):
    fleet = driver(1, FIXED)
    first = fleet.start()
    assert fleet.start(windows=20, long=True) is None
    assert fleet.start() is None, "the engine is kept free for the large one"
    fleet.end(first)
    (large,) = [charge for charge in fleet.charges() if charge.windows == 20]
    assert fleet.charges() == []
    fleet.end(large)
    assert len(fleet.charges()) == 1


def test_a_client_that_leaves_is_out_of_the_queue_at_once(driver):
    fleet = driver(1, FleetSettings(max_windows=1))
    first = fleet.start()
    ticket = fleet.submit()
    fleet.fleet.withdraw(ticket, fleet.now)
    assert fleet.fleet.waiting() == 0
    fleet.end(first)
    assert fleet.charges() == []


def test_a_large_request_that_leaves_gives_its_engine_back(driver):
    fleet = driver(1, FIXED)
    fleet.start()
    large = fleet.submit(windows=20, long=True)
    fleet.charges()
    fleet.fleet.withdraw(large, fleet.now)
    assert fleet.start() is not None


def test_a_charge_is_released_once(driver):
    fleet = driver(1)
    charge = fleet.start()
    engine = fleet.fleet.engine(charge.engine_id)
    assert (engine.in_flight, engine.windows_in_flight) == (1, 1)
    fleet.end(charge)
    assert fleet.end(charge, OutcomeKind.RESET) == ()
    assert (engine.in_flight, engine.windows_in_flight, engine.audio_s_in_flight) == (0, 0, 0.0)


def test_a_repeat_avoids_the_engine_it_failed_on(driver):
    fleet = driver(2)
    charge = fleet.start()
    fleet.end(charge, OutcomeKind.RESET)
    again = fleet.start(excluded={charge.engine_id})
    assert again.engine_id != charge.engine_id


def test_a_ticket_that_failed_on_every_engine_is_stranded(driver):
    fleet = driver(2)
    fleet.submit(excluded=set(fleet.ids))
    (assignment,) = fleet.fleet.assign(fleet.now)
    assert assignment.charge is None
    assert assignment.refusal is Refusal.NO_ENGINE_LEFT


def test_a_repeat_whose_engines_are_full_does_not_block_others(driver):
    fleet = driver(2, FleetSettings(max_windows=1))
    first = fleet.start()
    (other,) = [each for each in fleet.ids if each != first.engine_id]
    waiting = fleet.submit(excluded={other})
    fresh = fleet.submit()
    assert [charge.ticket for charge in fleet.charges()] == [fresh]
    fleet.end(first)
    assert [charge.ticket for charge in fleet.charges()] == [waiting]


def test_a_full_queue_says_when_to_come_back(driver):
    fleet = driver(1, FleetSettings(max_windows=1, max_queue_audio_s=60.0))
    fleet.start()
    fleet.submit(windows=1)
    fleet.submit(windows=1)
    with pytest.raises(QueueFull) as refused:
        fleet.submit(windows=1)
    assert refused.value.retry_after_s >= 1.0
    assert "waiting for m" in refused.value.reason


def test_work_that_has_waited_too_long_is_refused(driver):
    fleet = driver(1, FleetSettings(max_windows=1, max_queue_wait_s=5.0))
    fleet.start()
    fleet.submit()
    assert fleet.fleet.next_wakeup(fleet.now) == fleet.now + 5.0
    fleet.now += 5.0
    (assignment,) = fleet.fleet.assign(fleet.now)
    assert assignment.refusal is Refusal.WAITED_TOO_LONG


def test_nothing_to_wait_for_needs_no_wakeup(driver):
    fleet = driver(1)
    assert fleet.fleet.next_wakeup(fleet.now) is None


def test_the_queue_is_seen_by_model_and_urgency(driver):
    fleet = driver(1, FleetSettings(max_windows=1))
    fleet.start()
    fleet.submit(long=True)
    short, long = fleet.fleet.queues(fleet.now + 3)
    assert (short.model, short.count) == ("m", 0)
    assert (long.count, long.audio_s, long.oldest_s) == (1, 30.0, 3.0)


def test_unknown_engines_are_ignored(driver):
    fleet = driver(1)
    nobody = EngineId("http://nobody")
    assert fleet.probe(nobody) == ()
    assert fleet.fleet.drain(nobody, fleet.now) == ()
    assert fleet.fleet.resume(nobody, fleet.now) == ()
    assert fleet.fleet.observe_stats(nobody, None, fleet.now) == ()
    fleet.fleet.observe_models(nobody, ("m",), fleet.now)
