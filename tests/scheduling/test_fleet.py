import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduling.conftest import Driver

from vllm_router.scheduling.balance import POLICIES
from vllm_router.scheduling.changes import Withdrawn
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.engine_metrics import EngineStats
from vllm_router.scheduling.heartbeat import BEAT_S
from vllm_router.scheduling.registry import FleetSettings
from vllm_router.scheduling.work import AdmissionRefusal, Outcome, OutcomeKind, QueueFull

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
    assert assignment.refusal is AdmissionRefusal.NO_ENGINE_LEFT


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
    assert assignment.refusal is AdmissionRefusal.WAITED_TOO_LONG


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


# What is there.


def test_a_fleet_shows_how_many_engines_it_has_and_how_much_waits(driver):
    fleet = driver(2, FleetSettings(max_windows=1))
    for _ in range(3):
        fleet.start()
    assert repr(fleet.fleet) == "<Fleet 2 engines, 1 waiting>"
    assert fleet.fleet.waiting("unheard") == 0


def test_models_are_those_of_engines_in_any_state_and_ready_those_of_ready_ones(driver):
    fleet = driver(1)
    assert fleet.fleet.models() == ("m",)
    assert fleet.fleet.is_ready()
    assert fleet.fleet.is_ready("m")
    assert not fleet.fleet.is_ready("unheard")
    fleet.fleet.drain(fleet.ids[0], fleet.now)
    assert fleet.fleet.models() == ("m",)
    assert not fleet.fleet.is_ready()
    assert not fleet.fleet.is_ready("m")


def test_what_an_engine_failed_on_is_for_the_others(driver):
    fleet = driver(2)
    first, second = fleet.ids
    work = fleet.ticket()
    assert fleet.fleet.is_ready_for(work)
    work.excluded.add(first)
    assert fleet.fleet.is_ready_for(work)
    for _ in range(3):
        fleet.probe(second, ok=False)
    assert not fleet.fleet.is_ready_for(work)
    assert fleet.fleet.may_recover_for(work, fleet.now)
    work.excluded.add(second)
    assert not fleet.fleet.may_recover_for(work, fleet.now)
    assert not fleet.fleet.is_ready_for(fleet.ticket(model="unheard"))
    assert not fleet.fleet.may_recover_for(fleet.ticket(model="unheard"), fleet.now)


def test_a_model_that_only_waiting_work_names_is_not_served(driver):
    fleet = driver(0)
    fleet.submit()
    assert fleet.fleet.models() == ()


# What is observed.


def test_an_engine_serves_what_it_says_it_serves(driver):
    fleet = driver(1)
    fleet.fleet.observe_models(fleet.ids[0], ("m", "n"), fleet.now)
    fleet.fleet.observe_models(fleet.ids[0], ("m", "n"), fleet.now)
    assert fleet.fleet.models() == ("m", "n")


def test_an_engine_put_to_sleep_takes_no_work_until_it_woke_and_passed_a_probe(driver):
    fleet = driver(1)
    (engine_id,) = fleet.ids
    asleep, awake = EngineStats(0.0, 0.0, is_sleeping=True), EngineStats(0.0, 0.0)
    (move,) = fleet.fleet.observe_stats(engine_id, asleep, fleet.now)
    assert move.after.value == "sleeping"
    assert fleet.fleet.observe_stats(engine_id, asleep, fleet.now) == ()
    assert fleet.start() is None
    (move,) = fleet.fleet.observe_stats(engine_id, awake, fleet.now)
    assert move.after.value == "probing"
    assert fleet.charges() == []
    fleet.probe(engine_id)
    assert len(fleet.charges()) == 1


def test_work_of_other_routers_is_kept_room_for_until_the_scrape_fails(driver):
    fleet = driver(1, FleetSettings(max_windows=10))
    (engine_id,) = fleet.ids
    engine = fleet.fleet.engine(engine_id)
    fleet.fleet.observe_stats(engine_id, EngineStats(5.0, 1.0), fleet.now)
    assert (engine.elsewhere, engine.cap) == (6.0, 4.0)
    fleet.fleet.observe_stats(engine_id, None, fleet.now)
    assert (engine.elsewhere, engine.cap, engine.stats) == (0.0, 10.0, None)


def test_an_idle_engine_that_once_looked_slow_is_given_another_chance(driver):
    fleet = driver(2)
    slow, quick = (fleet.fleet.engine(each) for each in fleet.ids)
    slow.curve.rescale(20.0)
    slow.curve.learn(1.0, 20.0, fleet.now)
    fleet.probe(slow.engine_id)
    assert slow.curve.window_s(1.0) > 10.0, "no other has shown anything of late"
    fleet.now += 60.0
    quick.last_ok_at = fleet.now
    for _ in range(3):
        quick.curve.learn(1.0, quick.curve.window_s(1.0), fleet.now)
    fleet.probe(slow.engine_id)
    assert slow.curve.window_s(1.0) == pytest.approx(quick.curve.window_s(1.0))


def test_many_engines_that_are_given_another_chance_are_compared_once_a_second(driver):
    """In a fleet of a thousand each comparison takes tens of milliseconds."""
    fleet = driver(20)
    first, second, third, quick = (fleet.fleet.engine(each) for each in fleet.ids[:4])
    for slow in (first, second, third):
        slow.curve.rescale(20.0)
        slow.curve.learn(1.0, 20.0, fleet.now)
    fleet.now += 60.0
    quick.last_ok_at = fleet.now
    for _ in range(3):
        quick.curve.learn(1.0, quick.curve.window_s(1.0), fleet.now)
    fleet.probe(first.engine_id)
    before_s = second.next_window_s
    fleet.probe(second.engine_id)
    assert second.next_window_s == before_s
    fleet.now += 1.0
    fleet.probe(third.engine_id)
    assert second.next_window_s < before_s


def test_an_engine_that_answered_just_now_is_believed_to_be_slow(driver):
    fleet = driver(2)
    slow, quick = (fleet.fleet.engine(each) for each in fleet.ids)
    slow.curve.learn(1.0, 20.0, fleet.now)
    slow.last_ok_at = quick.last_ok_at = fleet.now
    fleet.probe(slow.engine_id)
    assert slow.curve.window_s(1.0) > 10.0


def test_a_probe_leaves_an_idle_quick_engine_as_it_is(driver):
    fleet = driver(2)
    idle, other = (fleet.fleet.engine(each) for each in fleet.ids)
    idle.curve.learn(1.0, 0.01, fleet.now)
    other.last_ok_at = fleet.now
    before = idle.curve.window_s(1.0)
    fleet.probe(idle.engine_id)
    assert idle.curve.window_s(1.0) == before


# Work.


def test_the_pieces_of_an_admitted_audio_are_never_refused(driver):
    fleet = driver(1, FleetSettings(max_windows=1, max_queue_audio_s=60.0))
    fleet.start()
    fleet.submit()
    with pytest.raises(QueueFull):
        fleet.fleet.admit(fleet.ticket(windows=10), fleet.now)
    assert fleet.fleet.waiting() == 1, "asking does not join"
    fleet.submit(windows=10, is_admitted=True)
    assert fleet.fleet.waiting() == 2


def test_without_a_longest_wait_nothing_expires(driver):
    fleet = driver(1, FleetSettings(max_windows=1, max_queue_wait_s=None))
    fleet.start()
    fleet.submit()
    assert fleet.fleet.next_wakeup(fleet.now) is None


@pytest.mark.parametrize("kind", [OutcomeKind.OK, OutcomeKind.CLIENT_FAULT])
def test_an_answer_clears_bad_ones_even_when_the_client_was_at_fault(driver, kind):
    fleet = driver(2)
    engine = fleet.fleet.engine(fleet.ids[0])
    engine.failed_answers = 2
    fleet.end(fleet.start(excluded={fleet.ids[1]}), kind)
    assert engine.failed_answers == 0


@pytest.mark.parametrize(
    "kind", [OutcomeKind.CLIENT_LEFT, OutcomeKind.CANCELLED, OutcomeKind.UNDECIDED]
)
def test_what_says_nothing_of_the_engine_is_no_answer(driver, kind):
    fleet = driver(2)
    engine = fleet.fleet.engine(fleet.ids[0])
    engine.failed_answers = 2
    assert fleet.end(fleet.start(excluded={fleet.ids[1]}), kind) == ()
    assert engine.failed_answers == 2


def test_three_failures_eject_an_engine(driver):
    fleet = driver(2)
    for _ in range(3):
        moves = fleet.end(fleet.start(excluded={fleet.ids[1]}), OutcomeKind.RESET)
    assert [move.after.value for move in moves] == ["ejected"]


def test_a_failure_that_was_undecided_counts_once_it_is_blamed(driver):
    fleet = driver(2)
    bad = Outcome(OutcomeKind.BAD_STATUS)
    for _ in range(2):
        assert fleet.fleet.blame(fleet.ids[0], fleet.now, bad, fleet.now) == ()
    (move,) = fleet.fleet.blame(fleet.ids[0], fleet.now, bad, fleet.now)
    assert move.after.value == "ejected"
    assert fleet.fleet.blame(EngineId("http://nobody"), 0.0, bad, fleet.now) == ()


@pytest.mark.parametrize("kind", OutcomeKind)
def test_what_has_to_be_done_elsewhere_drains_no_queue(driver, kind):
    """Or a black hole, which refuses a thousand uploads a second, makes the wait look short."""
    fleet = driver(2)
    pool = fleet.fleet.engine(fleet.ids[0]).pools[0]
    charge = fleet.start()
    fleet.now += 1.0
    fleet.end(charge, kind)
    is_done = kind in (OutcomeKind.OK, OutcomeKind.CLIENT_FAULT, OutcomeKind.CLIENT_LEFT)
    assert (pool.drain.per_s(fleet.now) > 0.0) == is_done


def refuse(fleet, engine_id):
    """Have an engine refuse an upload with 400; return whether it took one."""
    charge = fleet.start(excluded={each for each in fleet.ids if each != engine_id})
    if charge is None:
        return False
    fleet.fleet.refused(charge, 400, fleet.now)
    fleet.end(charge, OutcomeKind.UNDECIDED)
    return True


def on_trial(fleet, engine_id):
    """Put an engine on trial that refuses one upload after the other."""
    engine = fleet.fleet.engine(engine_id)
    for _ in range(3):
        assert refuse(fleet, engine_id)
        for other in fleet.ids:
            if other != engine_id:
                fleet.end(fleet.start(excluded={each for each in fleet.ids if each != other}))
    assert engine.is_on_trial
    return engine


def test_an_engine_that_refuses_its_trial_waits_for_the_next(driver):
    """Or it would be given every upload until a slow engine has shown that it is to blame."""
    fleet = driver(3)
    engine = on_trial(fleet, fleet.ids[0])
    taken = 0
    for _ in range(1000):
        fleet.now += 0.01
        charge = fleet.start()
        if charge.engine_id == engine.engine_id:
            taken += 1
            fleet.fleet.refused(charge, 400, fleet.now)
            fleet.end(charge, OutcomeKind.UNDECIDED)
        else:
            fleet.end(charge)
    assert 5 <= taken <= 10


def test_where_no_other_engine_serves_a_refused_trial_is_followed_by_another(driver):
    fleet = driver(1)
    (engine_id,) = fleet.ids
    for ok in (False, False, False, True):
        fleet.probe(engine_id, ok)
    assert fleet.fleet.engine(engine_id).is_on_trial
    for _ in range(5):
        charge = fleet.start()
        fleet.fleet.refused(charge, 400, fleet.now)
        fleet.end(charge, OutcomeKind.CLIENT_FAULT)


def test_an_engine_is_known_by_the_answers_it_gives(driver):
    fleet = driver(1)
    charge = fleet.start()
    fleet.now += 3.0
    fleet.end(charge)
    engine = fleet.fleet.engine(fleet.ids[0])
    assert engine.curve.window_s(1.0) == pytest.approx(3.0)


def test_answers_far_too_late_eject_an_engine(driver):
    fleet = driver(2)
    engine = fleet.fleet.engine(fleet.ids[0])
    moves = ()
    for _ in range(5):
        engine.curve.rescale(0.4 / engine.curve.window_s(1.0))
        engine.curve.answers = 1000.0
        charge = fleet.start(excluded={fleet.ids[1]})
        fleet.now += 60.0
        moves += fleet.end(charge)
    assert [move.after.value for move in moves] == ["ejected"]


def test_a_withdrawn_engine_is_gone_with_the_end_of_its_work(driver):
    fleet = driver(1)
    charge = fleet.start()
    fleet.fleet.apply(Withdrawn(fleet.ids[0]), fleet.now)
    assert fleet.state(fleet.ids[0]) == "draining"
    (move,) = fleet.end(charge)
    assert move.after.value == "gone"
    assert fleet.state(fleet.ids[0]) == "gone"


# Repeats and hedges.


def test_repeats_are_bounded(driver):
    fleet = driver(1, FleetSettings(retry_share=0.0, retry_floor_per_s=0.5))
    assert sum(fleet.fleet.may_retry(fleet.now) for _ in range(100)) == 5


def test_without_the_operators_word_nothing_is_hedged(driver):
    fleet = driver(1)
    assert fleet.fleet.hedge_delay_s() is None
    assert not fleet.fleet.may_hedge()


def test_a_hedge_comes_after_the_time_that_the_operator_names(driver):
    fleet = driver(1, FleetSettings(hedge_after_s=2.5))
    assert fleet.fleet.hedge_delay_s() == 2.5
    assert sum(fleet.fleet.may_hedge() for _ in range(100)) == 3


def test_a_hedge_comes_after_what_short_requests_usually_take(driver):
    fleet = driver(1, FleetSettings(hedge_after_s="auto"))
    for is_long, seconds in [(False, 1.0), (True, 50.0)] * 40:
        charge = fleet.start(long=is_long)
        fleet.now += seconds
        fleet.end(charge)
    assert fleet.fleet.hedge_delay_s() == pytest.approx(1.0, rel=0.12)


# The operator's word.


def test_a_drained_engine_finishes_what_it_has_and_comes_back_by_a_probe(driver):
    fleet = driver(1)
    charge = fleet.start()
    fleet.fleet.drain(fleet.ids[0], fleet.now)
    assert fleet.start() is None
    assert fleet.end(charge) == ()
    assert fleet.charges() == []
    (move,) = fleet.fleet.resume(fleet.ids[0], fleet.now)
    assert move.after.value == "probing"
    fleet.probe(fleet.ids[0])
    assert len(fleet.charges()) == 1


def test_a_withdrawn_engine_cannot_be_resumed(driver):
    fleet = driver(1)
    fleet.start()
    fleet.fleet.apply(Withdrawn(fleet.ids[0]), fleet.now)
    assert fleet.fleet.resume(fleet.ids[0], fleet.now) == ()


def test_an_engine_kept_free_is_given_up_when_it_may_take_no_work(driver):
    fleet = driver(2, FIXED)
    running = [fleet.start() for _ in range(8)]
    large = fleet.submit(windows=20, long=True)
    fleet.end(running.pop())
    assert fleet.charges() == []
    (kept,) = [each for each in fleet.fleet.engines() if each.held_for is large]
    fleet.fleet.drain(kept.engine_id, fleet.now)
    for charge in running:
        fleet.end(charge)
    (charge,) = fleet.charges()
    assert charge.ticket is large
    assert charge.engine_id != kept.engine_id


def test_an_engine_whose_answers_came_late_is_known_as_slow_when_it_comes_back(driver):
    fleet = driver(2)
    engine = fleet.fleet.engine(fleet.ids[0])
    for _ in range(60):
        charge = fleet.start(excluded={fleet.ids[1]})
        fleet.now += 0.4
        fleet.end(charge)
    moves = ()
    for _ in range(5):
        assert engine.curve.window_s(1.0) == pytest.approx(0.4)
        charge = fleet.start(excluded={fleet.ids[1]})
        fleet.now += 40.0
        moves += fleet.end(charge)
    assert [move.after.value for move in moves] == ["ejected"]
    assert engine.curve.window_s(1.0) == pytest.approx(40.0)


def test_work_for_a_model_that_no_engine_serves_any_longer_waits(driver):
    # Found by a random history: what rounding left of the last engine's curve passed for an engine.
    fleet = driver(2)
    fleet.fleet.drain(fleet.ids[1], fleet.now)
    charge = fleet.start()
    fleet.now += 40.0
    fleet.end(charge)
    fleet.fleet.observe_models(fleet.ids[0], (), fleet.now)
    fleet.submit(long=True)
    assert fleet.charges() == []
    (pool,) = fleet.fleet._registry.pools.values()
    assert (pool.peak_per_s, pool.half_at) == (0.0, 0.0)


def test_work_is_taken_at_once_only_where_nothing_waits_and_there_is_room(driver):
    fleet = driver(1, FleetSettings(max_windows=1))
    assert fleet.fleet.take(fleet.ticket(long=True), fleet.now) is None
    charge = fleet.fleet.take(fleet.ticket(), fleet.now)
    assert charge.engine_id == fleet.ids[0]
    second = fleet.ticket()
    assert fleet.fleet.take(second, fleet.now) is None
    fleet.fleet.submit(second, fleet.now)
    fleet.end(charge)
    assert fleet.fleet.take(fleet.ticket(), fleet.now) is None, "another came first"
    assert [each.ticket for each in fleet.charges()] == [second]
    assert fleet.fleet.take(fleet.ticket(model="other"), fleet.now) is None


def test_what_may_not_wait_at_all_is_not_taken_either(driver):
    fleet = driver(1, FleetSettings(max_queue_wait_s=0.0))
    assert fleet.fleet.take(fleet.ticket(), fleet.now) is None


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    # Looking for an engine twice, which two choices do by chance, comes to another one.
    st.sampled_from(sorted(POLICIES.keys() - {"two-choices"})),
    st.lists(
        st.tuples(
            st.sampled_from(
                ("short", "short", "wide", "long", "again", "end", "end", "fail", "time")
            ),
            st.integers(0, 99),
        ),
        max_size=60,
    ),
)
def test_work_taken_at_once_goes_where_the_queue_would_have_sent_it(count, policy, steps):
    endless = FleetSettings(
        max_windows=3, policy=policy, max_queue_audio_s=None, max_queue_wait_s=None
    )
    by_queue, at_once = Driver(count, endless), Driver(count, endless)
    running = {by_queue: [], at_once: []}
    for kind, which in steps:
        for fleet, charges in running.items():
            if kind == "time":
                fleet.now += which / 5.0
            elif kind in ("end", "fail"):
                if charges:
                    ends = OutcomeKind.OK if kind == "end" else OutcomeKind.RESET
                    fleet.end(charges.pop(which % len(charges)), ends)
            else:
                excluded = {fleet.ids[which % count]} if kind == "again" else set()
                ticket = fleet.ticket(
                    1 + 2 * (kind == "wide"), kind == "long", session_key=f"k{which % 3}",
                    excluded=excluded,
                )  # fmt: skip
                charge = fleet.fleet.take(ticket, fleet.now) if fleet is at_once else None
                if charge is not None:
                    charges.append(charge)
                else:
                    fleet.fleet.submit(ticket, fleet.now)
            charges += fleet.charges()
        told = [
            [(each.ticket.request_id, each.engine_id, each.ticket.waited_s) for each in charges]
            for charges in running.values()
        ]
        assert told[0] == told[1]
        assert by_queue.fleet.waiting() == at_once.fleet.waiting()


def quick(fleet: Driver, rounds: int = 60) -> None:
    """Let every engine show that a window takes it half a second."""
    for _ in range(rounds):
        charges = [fleet.start() for _ in fleet.ids]
        fleet.now += 0.5
        for charge in charges:
            fleet.end(charge)


def test_a_call_is_overdue_after_seconds_on_a_quick_engine_that_is_known(driver):
    fleet = driver(2)
    quick(fleet)
    charge = fleet.start()
    rules = fleet.fleet.settings.suspicion
    at = fleet.fleet.overdue_at(charge, fleet.now)
    assert at - charge.started_at <= rules.factor * 0.6
    # What it is given after that makes it slower.
    for _ in range(30):
        fleet.start()
    assert fleet.fleet.overdue_at(charge, fleet.now) > at


def test_an_unknown_engine_is_measured_by_its_peers(driver):
    fleet = driver(2)
    known, cold = (fleet.fleet.engine(each) for each in fleet.ids)
    before = cold.curve.window_s(1.0)
    for number in range(60):
        known.curve.learn(1.0, 3.0, fleet.now + number / 10)
    known.last_ok_at = fleet.now
    charges = [fleet.start() for _ in fleet.ids]
    charge = next(each for each in charges if each.engine is cold)
    after_s = fleet.fleet.overdue_at(charge, fleet.now) - fleet.now
    assert after_s >= fleet.fleet.settings.suspicion.unknown_factor * 2.5
    assert before < 1.0


def test_a_cold_fleet_is_given_its_time_until_one_engine_answers(driver):
    fleet = driver(2)
    rules = fleet.fleet.settings.suspicion
    charges = [fleet.start() for _ in fleet.ids]
    began = fleet.now
    fleet.now += 20.0
    assert fleet.fleet.overdue_at(charges[0], fleet.now) > fleet.now
    fleet.end(charges[1])
    assert fleet.fleet.overdue_at(charges[0], fleet.now) <= fleet.now
    fleet.now = began + rules.stall_s
    assert fleet.fleet.overdue_at(charges[0], fleet.now) <= fleet.now


def test_what_is_released_is_never_overdue(driver):
    fleet = driver(1)
    charge = fleet.start()
    fleet.end(charge)
    assert fleet.fleet.overdue_at(charge, fleet.now) == float("inf")


def test_a_suspected_engine_gets_nothing_new_until_its_probe_passes(driver):
    fleet = driver(2)
    charge = fleet.start()
    fleet.fleet.suspect(charge, fleet.now)
    others = [fleet.start() for _ in range(4)]
    assert charge.engine_id not in {other.engine_id for other in others}
    fleet.probe(charge.engine_id)
    assert charge.engine_id in {fleet.start().engine_id for _ in range(4)}


def test_where_all_engines_are_suspected_all_get_work(driver):
    fleet = driver(2)
    charges = [fleet.start() for _ in fleet.ids]
    for charge in charges:
        fleet.fleet.suspect(charge, fleet.now)
    fleet.now += 2.0
    assert {fleet.start().engine_id for _ in range(4)} == set(fleet.ids)


@pytest.mark.parametrize("slower", [4.0, 8.0])
def test_an_engine_that_slows_down_is_not_lost_but_comes_to_be_known_as_slow(driver, slower):
    """Its late answers are never seen, for others are quicker: what they cost at least is learned.

    Four times slower is a throttled GPU; ten times is one that has fallen off the bus.
    """
    fleet = driver(2)
    quick(fleet)
    slow = fleet.ids[0]
    overtaken = 0
    for _ in range(400):
        charge = fleet.start()
        if charge.engine_id != slow:
            fleet.now += 0.5
            fleet.end(charge)
        elif fleet.fleet.overdue_at(charge, fleet.now) - fleet.now > 0.5 * slower:
            fleet.now += 0.5 * slower
            fleet.end(charge)
        else:
            fleet.now = fleet.fleet.overdue_at(charge, fleet.now) + 0.5
            fleet.fleet.suspect(charge, fleet.now)
            fleet.probe(slow)
            fleet.end(charge, OutcomeKind.OVERTAKEN)
            overtaken += 1
        for each in fleet.ids:
            fleet.probe(each)
    assert overtaken == 0 if slower <= 4.0 else overtaken <= 40
    engine = fleet.fleet.engine(slow)
    assert fleet.state(slow) == "ready"
    assert engine.ejections <= 6


# A router that stood still itself.


def standing_still(driver, *, is_told_first):
    """Return a fleet whose router has been stopped for 30 s with ten calls under way."""
    fleet = driver(2)
    quick(fleet)
    charges = [fleet.start() for _ in range(10)]
    for _ in range(4):
        fleet.fleet.beat(fleet.now)
        fleet.now += BEAT_S
    fleet.now += 30.0
    if is_told_first:
        fleet.fleet.beat(fleet.now)
    return fleet, charges


def shown(fleet):
    return [
        (fleet.state(each), engine.curve.window_s(1.0), engine.curve.answers, engine.failed_answers)
        for each in fleet.ids
        for engine in [fleet.fleet.engine(each)]
    ]


@pytest.mark.parametrize("is_told_first", [True, False])
@pytest.mark.parametrize("kind", [OutcomeKind.OK, OutcomeKind.TIMEOUT, OutcomeKind.OVERTAKEN])
def test_time_in_which_the_router_stood_still_speaks_for_no_engine(driver, kind, is_told_first):
    """Answers that came meanwhile are read first, so before the next beat or after it."""
    fleet, charges = standing_still(driver, is_told_first=is_told_first)
    before = shown(fleet)
    assert not any(fleet.end(charge, kind) for charge in charges)
    assert shown(fleet) == before


def test_calls_after_a_standstill_are_judged_as_ever(driver):
    fleet, charges = standing_still(driver, is_told_first=True)
    for charge in charges:
        fleet.end(charge)
    before = sum(fleet.fleet.engine(each).curve.answers for each in fleet.ids)
    charge = fleet.start()
    fleet.now += BEAT_S
    fleet.end(charge)
    assert sum(fleet.fleet.engine(each).curve.answers for each in fleet.ids) > before


def test_a_refusal_speaks_against_an_engine_whatever_the_router_did(driver):
    fleet, charges = standing_still(driver, is_told_first=True)
    moves = [move for charge in charges for move in fleet.end(charge, OutcomeKind.RESET)]
    assert moves


def test_no_call_is_overdue_for_the_time_the_router_stood_still(driver):
    fleet, charges = standing_still(driver, is_told_first=True)
    assert all(fleet.fleet.overdue_at(charge, fleet.now) > fleet.now for charge in charges)


@pytest.mark.parametrize("is_told_first", [True, False])
def test_a_probe_that_was_late_for_a_standstill_does_not_count(driver, is_told_first):
    fleet, charges = standing_still(driver, is_told_first=is_told_first)
    engine_id = charges[0].engine_id
    fleet.fleet.suspect(charges[0], fleet.now)
    for _ in range(3):
        moves = fleet.fleet.observe_probe(engine_id, False, 31.0, "slow", True, fleet.now)
        assert moves == ()
    assert fleet.state(engine_id) == "ready"


# Deaths.


def test_a_death_says_whether_the_engine_held_another_suspect(driver):
    fleet = driver(1)
    alone = fleet.start()
    fleet.fleet.died(alone, fleet.now)
    fleet.end(alone, OutcomeKind.RESET)
    assert [death.is_shared for death in alone.ticket.deaths] == [False]
    # Long ago, so that they go where they can.
    fleet.now += 100.0
    for ticket in (alone.ticket, first := fleet.ticket()):
        ticket.excluded.clear()
        if not ticket.deaths:
            fleet.fleet.died(alone, fleet.now - 50.0)
            ticket.deaths.append(alone.ticket.deaths.pop())
        fleet.fleet.submit(ticket, fleet.now)
    charges = fleet.charges()
    assert {charge.ticket for charge in charges} == {alone.ticket, first}
    for charge in charges:
        fleet.end(charge, OutcomeKind.RESET)
        fleet.fleet.died(charge, fleet.now)
    assert [charge.ticket.deaths[-1].is_shared for charge in charges] == [True, True]


def test_a_death_makes_a_suspect_of_the_same_upload_on_another_engine(driver):
    fleet = driver(2)
    first = fleet.start()
    second = fleet.start(deaths=first.ticket.deaths)
    fleet.fleet.died(first, fleet.now, [second])
    assert second.engine.suspects == 1
    fleet.end(first, OutcomeKind.RESET)
    fleet.end(second)
    assert [fleet.fleet.engine(each).suspects for each in fleet.ids] == [0, 0]


def test_an_engine_that_names_no_model_says_so(driver):
    fleet = driver(1)
    fleet.fleet.observe_models(fleet.ids[0], (), fleet.now)
    fleet.probe(fleet.ids[0])
    assert fleet.fleet.engine(fleet.ids[0]).last_error == "its /v1/models lists no model"
