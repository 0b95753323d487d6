import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, empty_registry, ready_registry, spec, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.changes import Appeared, Withdrawn
from vllm_router.scheduling.concurrency_limit import LimitRules
from vllm_router.scheduling.dispatcher import Dispatcher, fits_held
from vllm_router.scheduling.engine import Engine, EngineId
from vllm_router.scheduling.engine_states import EngineEvent
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.work import AdmissionRefusal, Charge, Death, Ticket, Urgency

SHORT, LONG = Urgency.SHORT, Urgency.LONG


class Desk:
    """Ready engines with a fixed limit, a dispatcher, a clock, and words for what happens."""

    def __init__(self, count: int, limit: int | None = 4, **more: object) -> None:
        settings = FleetSettings(max_windows=limit, **more)
        self.registry, self.engines = ready_registry(count, settings)
        self.dispatcher = Dispatcher(self.registry)
        self.now = 100.0

    @property
    def pool(self) -> Pool:
        return self.registry.pools[MODEL]

    def add(self, windows: int = 1, urgency: Urgency = SHORT, *excluded: str) -> Ticket:
        new = ticket(windows, urgency, self.now, excluded=frozenset(excluded))
        self.dispatcher.add(self.registry.pool(MODEL), new, self.now)
        return new

    def suspect(self, name: str = "e0", urgency: Urgency = SHORT, age_s: float = 0.0) -> Ticket:
        """Add an upload on which an engine has died so long ago."""
        new = ticket(1, urgency, self.now, excluded=frozenset((name,)))
        new.deaths.append(Death(EngineId(name), self.now - age_s))
        self.dispatcher.add(self.registry.pool(MODEL), new, self.now)
        return new

    def assign(self) -> list[Charge]:
        out = self.dispatcher.assign(self.now)
        assert all(each.charge is not None for each in out)
        return [each.charge for each in out if each.charge is not None]

    def served(self) -> list[Ticket]:
        return [charge.ticket for charge in self.assign()]

    def end(self, *charges: Charge) -> None:
        for charge in charges:
            engine, charge.engine = charge.engine, None
            assert engine is not None
            load.release(charge, engine, self.now)
            self.registry.refresh(engine, self.now)

    def fill(self, urgency: Urgency = SHORT, count: int = 4) -> list[Charge]:
        for _ in range(count):
            self.add(1, urgency)
        charges = self.assign()
        assert len(charges) == count
        return charges


# The usual.


def test_short_work_is_assigned_in_the_order_in_which_it_came_while_there_is_room() -> None:
    desk = Desk(1)
    tickets = [desk.add() for _ in range(6)]
    charges = desk.assign()
    assert [charge.ticket for charge in charges] == tickets[:4]
    desk.end(charges[2])
    assert desk.served() == [tickets[4]]
    assert len(desk.pool.queue) == 1


def test_where_nothing_waits_nothing_is_assigned() -> None:
    desk = Desk(1)
    assert desk.assign() == []
    assert desk.dispatcher.next_wakeup(desk.now) is None


def test_a_ticket_knows_how_long_it_has_waited_over_all_its_repeats() -> None:
    desk = Desk(1)
    charges = desk.fill()
    waiting = desk.add()
    desk.now += 3.0
    desk.end(*charges)
    (charge,) = desk.assign()
    desk.now += 5.0
    desk.end(charge)
    desk.dispatcher.add(desk.pool, waiting, desk.now)
    desk.now += 1.0
    assert desk.served() == [waiting]
    assert waiting.waited_s == 4.0


def test_each_decision_is_a_turn_of_its_own() -> None:
    desk = Desk(3, policy="roundrobin")
    for _ in range(6):
        desk.add()
    names = [charge.engine_id for charge in desk.assign()]
    assert names[:3] == names[3:]
    assert set(names) == {"e0", "e1", "e2"}
    assert sorted(engine.turn for engine in desk.engines) == [4, 5, 6]


def test_the_queue_is_busy_from_the_first_ticket_that_waits_to_the_last() -> None:
    desk = Desk(1)
    charges = desk.fill()
    assert desk.pool.busy_since is None
    desk.add()
    desk.now += 1.0
    desk.add()
    assert desk.assign() == []
    assert desk.pool.busy_since == 100.0
    desk.end(*charges)
    desk.assign()
    assert desk.pool.busy_since is None


def test_an_engine_on_trial_is_given_one_request() -> None:
    desk = Desk(1)
    (engine,) = desk.engines
    engine.is_on_trial = True
    desk.registry.refresh(engine, desk.now)
    first, second = desk.add(), desk.add()
    (charge,) = desk.assign()
    assert charge.ticket is first
    desk.end(charge)
    assert desk.served() == [second]


def test_engines_whose_time_has_come_are_looked_at_before_deciding() -> None:
    desk = Desk(1)
    (engine,) = desk.engines
    engine.is_on_trial, engine.trial_at = True, desk.now + 1.0
    desk.registry.refresh(engine, desk.now)
    waiting = desk.add()
    assert desk.assign() == []
    assert desk.dispatcher.next_wakeup(desk.now) == desk.now + 1.0
    desk.now += 1.0
    assert desk.served() == [waiting]


# Short and long.


def test_short_work_goes_before_long_work_that_came_first() -> None:
    desk = Desk(1)
    charges = desk.fill()
    long, short = desk.add(1, LONG), desk.add()
    desk.end(charges[0])
    assert desk.served() == [short]
    desk.end(*charges[1:])
    assert desk.served() == [long]


def test_long_work_leaves_room_for_short_work() -> None:
    desk = Desk(1, limit=8)
    for _ in range(10):
        desk.add(1, LONG)
    assert len(desk.assign()) == 7
    short = desk.add()
    assert desk.served() == [short]


def test_while_short_work_waits_every_fourth_decision_goes_to_long_work_that_has_aged() -> None:
    desk = Desk(1, limit=1, limits=LimitRules(proportion=0.0))
    (charge,) = desk.fill(count=1)
    for _ in range(3):
        desk.add(1, LONG)
    desk.now += 30.0
    for _ in range(9):
        desk.add()
    desk.now += 1.0
    turns = []
    for _ in range(12):
        desk.end(charge)
        (charge,) = desk.assign()
        turns.append(charge.ticket.urgency)
    assert turns == [SHORT, SHORT, SHORT, LONG] * 3


def test_aged_long_work_that_fits_nowhere_does_not_stop_short_work() -> None:
    desk = Desk(1, limit=2)
    desk.fill(count=1)
    desk.add(2, LONG)
    desk.now += 60.0
    short = desk.add()
    assert desk.served() == [short]


def test_long_work_that_has_waited_out_of_proportion_goes_first() -> None:
    desk = Desk(1, limit=1)
    (charge,) = desk.fill(count=1)
    long = desk.add(1, LONG)
    desk.now += 5.0
    short = desk.add()
    desk.now += 0.5
    desk.end(charge)
    (charge,) = desk.assign()
    assert charge.ticket is long, "5 s and a half are more than four times half a second"
    later = desk.add(1, LONG)
    desk.now += 1.0
    desk.end(charge)
    assert desk.served() == [short]
    assert later.place


# Wakeups and waits.


def test_work_that_may_not_wait_longer_is_refused_at_that_time() -> None:
    desk = Desk(1)
    desk.fill()
    short, long = desk.add(), desk.add(1, LONG)
    short.expires_at, long.expires_at = desk.now + 5.0, desk.now + 2.0
    assert desk.assign() == []
    assert desk.dispatcher.next_wakeup(desk.now) == desk.now + 2.0
    desk.now += 2.0
    (refused,) = desk.dispatcher.assign(desk.now)
    assert (refused.ticket, refused.charge) == (long, None)
    assert refused.refusal is AdmissionRefusal.WAITED_TOO_LONG
    assert desk.dispatcher.next_wakeup(desk.now) == desk.now + 3.0
    desk.now += 3.0
    (refused,) = desk.dispatcher.assign(desk.now)
    assert refused.ticket is short
    assert desk.pool.busy_since is None


def test_time_alone_lets_long_work_run_out_of_patience_and_then_age() -> None:
    desk = Desk(1)
    desk.fill()
    desk.add(1, LONG)
    assert desk.dispatcher.next_wakeup(desk.now) == desk.now + 5.0
    assert desk.dispatcher.next_wakeup(desk.now + 5.0) == desk.now + 30.0
    assert desk.dispatcher.next_wakeup(desk.now + 30.0) is None


def test_short_work_that_never_expires_needs_no_wakeup() -> None:
    desk = Desk(1)
    desk.fill()
    waiting = desk.add()
    assert waiting.expires_at == math.inf
    assert desk.dispatcher.next_wakeup(desk.now) is None


# Leaving.


def test_a_client_that_leaves_takes_its_ticket_along() -> None:
    desk = Desk(1)
    charges = desk.fill()
    gone, waiting = desk.add(), desk.add()
    desk.dispatcher.withdraw(gone, desk.now)
    desk.dispatcher.withdraw(gone, desk.now)
    desk.end(*charges)
    assert desk.served() == [waiting]


def test_a_ticket_for_a_model_that_nobody_has_heard_of_may_leave_too() -> None:
    desk = Desk(1)
    stranger = ticket()
    stranger.model = "unheard"
    desk.dispatcher.withdraw(stranger, desk.now)
    assert list(desk.registry.pools) == [MODEL]


def test_the_queue_of_a_model_without_engines_ends_with_its_last_ticket() -> None:
    desk = Desk(0)
    waiting = desk.add()
    assert desk.assign() == []
    assert list(desk.registry.pools) == [MODEL]
    desk.dispatcher.withdraw(waiting, desk.now)
    assert desk.registry.pools == {}


def test_work_waits_for_an_engine_that_has_yet_to_appear() -> None:
    registry = empty_registry()
    dispatcher = Dispatcher(registry)
    waiting = ticket()
    dispatcher.add(registry.pool(MODEL), waiting, 1.0)
    assert dispatcher.assign(1.0) == []
    registry.apply(Appeared(spec("late")), 2.0)
    registry.move(registry.engines[EngineId("late")], EngineEvent.PROBE_PASSED, 3.0)
    assert [each.ticket for each in dispatcher.assign(3.0)] == [waiting]


# Repeats.


def test_a_repeat_goes_to_an_engine_that_it_has_not_failed_on() -> None:
    desk = Desk(3)
    desk.add(1, SHORT, "e0", "e2")
    desk.add(1, LONG, "e0", "e1")
    assert [charge.engine_id for charge in desk.assign()] == ["e1", "e2"]


@pytest.mark.parametrize("urgency", Urgency)
def test_a_repeat_that_failed_on_every_engine_is_told_so(urgency: Urgency) -> None:
    desk = Desk(2)
    lost = desk.add(1, urgency, "e0", "e1")
    (refused,) = desk.dispatcher.assign(desk.now)
    assert (refused.ticket, refused.charge) == (lost, None)
    assert refused.refusal is AdmissionRefusal.NO_ENGINE_LEFT


@pytest.mark.parametrize("urgency", Urgency)
def test_repeats_whose_engines_are_full_step_aside_and_keep_their_place(urgency: Urgency) -> None:
    desk = Desk(2, limit=1)
    desk.add(1, SHORT, "e1")
    (busy,) = desk.assign()
    repeats = [desk.add(1, urgency, "e1") for _ in range(3)]
    desk.now += 1.0
    fresh = desk.add(1, urgency)
    assert [(each.ticket, each.engine_id) for each in desk.assign()] == [(fresh, "e1")]
    desk.end(busy)
    assert desk.served() == [repeats[0]]


def test_one_pass_steps_over_so_many_repeats_and_no_more() -> None:
    desk = Desk(2, limit=1)
    desk.add(1, SHORT, "e1")
    desk.assign()
    repeats = [desk.add(1, SHORT, "e1") for _ in range(16)]
    desk.now += 1.0
    fresh = desk.add()
    assert desk.assign() == []
    assert len(desk.pool.queue) == 17
    desk.dispatcher.withdraw(repeats[5], desk.now)
    assert desk.served() == [fresh]


# Work larger than the room there is.


def test_work_larger_than_any_limit_gets_an_engine_kept_free_and_runs_alone() -> None:
    desk = Desk(1)
    charges = desk.fill(count=2)
    large, short = desk.add(20, LONG), desk.add()
    (last,) = desk.assign()
    assert last.ticket is short
    assert desk.pool.held is desk.engines[0]
    late = desk.add()
    assert desk.assign() == [], "nothing more goes to the engine kept free"
    desk.end(*charges)
    assert desk.assign() == [], "one is still running"
    desk.end(last)
    (charge,) = desk.assign()
    assert charge.ticket is large
    assert desk.pool.held is None
    desk.end(charge)
    assert desk.served() == [late]


def test_an_engine_is_not_kept_free_at_once_for_what_will_fit_by_itself() -> None:
    desk = Desk(1, limit=8)
    desk.fill(count=5)
    desk.add(4, LONG)
    assert desk.assign() == []
    assert desk.pool.held is None
    desk.now += 5.0
    assert desk.assign() == []
    assert desk.pool.held is desk.engines[0]


def test_no_engine_is_kept_free_for_a_single_window() -> None:
    desk = Desk(1, limit=8)
    desk.fill(LONG, 7)
    desk.add(1, LONG)
    desk.now += 60.0
    desk.assign()
    assert desk.pool.held is None


def test_no_engine_is_kept_free_where_the_work_has_failed_already() -> None:
    desk = Desk(1)
    desk.fill(count=2)
    desk.add(20, LONG, "e0")
    (refused,) = desk.dispatcher.assign(desk.now)
    assert refused.refusal is AdmissionRefusal.NO_ENGINE_LEFT
    assert desk.pool.held is None


def test_large_work_that_leaves_gives_its_engine_back() -> None:
    desk = Desk(1)
    desk.fill(count=2)
    large = desk.add(20, LONG)
    desk.assign()
    desk.dispatcher.withdraw(large, desk.now)
    assert desk.pool.held is None
    short = desk.add()
    assert desk.served() == [short]


def test_large_work_that_has_waited_too_long_gives_its_engine_back() -> None:
    desk = Desk(1)
    desk.fill(count=2)
    large = desk.add(20, LONG)
    large.expires_at = desk.now + 1.0
    assert desk.assign() == []
    desk.now += 1.0
    (refused,) = desk.dispatcher.assign(desk.now)
    assert refused.refusal is AdmissionRefusal.WAITED_TOO_LONG
    assert desk.pool.held is None


@pytest.mark.parametrize(
    "event", [EngineEvent.DRAIN, EngineEvent.PROBES_FAILED, EngineEvent.ANSWERS_FAILED]
)
def test_an_engine_that_goes_while_it_is_kept_free_is_kept_no_longer(event: EngineEvent) -> None:
    desk = Desk(2)
    charges = desk.fill(count=4)
    large = desk.add(20, LONG)
    desk.assign()
    held = desk.pool.held
    assert held is not None
    desk.registry.move(held, event, desk.now)
    desk.end(*[charge for charge in charges if charge.engine is not held])
    (charge,) = desk.assign()
    assert charge.ticket is large
    assert charge.engine_id != held.engine_id
    assert held.held_for is None


def test_an_engine_withdrawn_while_it_is_kept_free_is_kept_no_longer() -> None:
    desk = Desk(2)
    charges = desk.fill(count=4)
    large = desk.add(20, LONG)
    desk.assign()
    held = desk.pool.held
    assert held is not None
    desk.registry.apply(Withdrawn(held.engine_id), desk.now)
    desk.end(*[charge for charge in charges if charge.engine is not held])
    assert desk.served() == [large]


def test_short_work_does_not_stop_large_work_whose_engine_has_come_free() -> None:
    desk = Desk(1)
    (charge,) = desk.fill(count=1)
    large = desk.add(20, LONG)
    desk.assign()
    short = desk.add()
    desk.end(charge)
    assert desk.served() == [large]
    assert desk.pool.queue.short.head() is short


def test_what_is_kept_free_may_start_when_it_fits_or_when_nothing_runs() -> None:
    desk = Desk(1, limit=8)
    (engine,) = desk.engines
    work, large = ticket(4, LONG), ticket(20, LONG)
    assert fits_held(engine, large), "found, not kept free: the pool has looked already"
    engine.held_for = work
    assert fits_held(engine, work)
    assert fits_held(engine, large)
    engine.windows_in_flight = 3
    assert fits_held(engine, work)
    assert not fits_held(engine, large)


# How far long work fills the engines.


def test_the_fill_grows_while_much_long_work_waits_and_the_engines_are_told() -> None:
    desk = Desk(2, limit=None, limits=LimitRules(quiet_share=0.0))
    engine = desk.engines[0]
    engine.curve.reached = 100.0
    desk.registry.refresh(engine, desk.now)
    pool = desk.pool
    for _ in range(2000):
        desk.add(1, LONG)
    first_fill, first_cap = pool.fill, engine.long_cap
    for _ in range(200):
        desk.now += 1.0
        desk.assign()
    assert pool.fill > 1.5 * first_fill
    assert engine.long_cap > 1.5 * first_cap
    assert pool.fill_told == pytest.approx(pool.fill, rel=0.051)


def test_the_fill_shrinks_while_little_long_work_waits() -> None:
    desk = Desk(1, limit=None)
    pool = desk.pool
    filled = len(desk.fill(LONG, math.ceil(desk.engines[0].long_limit)))
    desk.add(1, LONG)
    before = pool.fill
    for _ in range(100):
        desk.now += 1.0
        desk.assign()
    assert pool.fill < before
    assert filled > 0


def test_the_fill_does_not_move_within_a_base_latency() -> None:
    desk = Desk(1, limit=None)
    for _ in range(2000):
        desk.add(1, LONG)
    desk.assign()
    fill, at = desk.pool.fill, desk.pool.fill_at
    desk.now += 0.5 * desk.pool.half_at / desk.pool.peak_per_s
    desk.assign()
    assert (desk.pool.fill, desk.pool.fill_at) == (fill, at)


def test_without_an_engine_in_service_the_fill_stays() -> None:
    desk = Desk(1, limit=None)
    desk.registry.move(desk.engines[0], EngineEvent.DRAIN, desk.now)
    desk.add(1, LONG)
    before = desk.pool.fill
    desk.now += 100.0
    desk.assign()
    assert desk.pool.fill == before


ARRIVALS = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.sampled_from(Urgency),
        st.sets(st.sampled_from(["e0", "e1", "e2"]), max_size=2),
        st.floats(0, 3),
    ),
    min_size=1,
    max_size=40,
)


def over_its_limit(engine: Engine) -> bool:
    return engine.windows_in_flight > engine.limit and engine.in_flight > 1


@given(ARRIVALS, st.integers(1, 5))
def test_all_work_is_done_once_where_it_may_be_and_within_the_limits(
    arrivals: list[tuple[int, Urgency, set[str], float]], limit: int
) -> None:
    desk = Desk(3, limit=limit)
    added: list[Ticket] = []
    done: list[Ticket] = []
    running: deque[Charge] = deque()

    def decide() -> None:
        for charge in desk.assign():
            assert charge.engine_id not in charge.ticket.excluded
            running.append(charge)
            done.append(charge.ticket)
        assert not any(over_its_limit(engine) for engine in desk.engines)

    for windows, urgency, excluded, pause_s in arrivals:
        desk.now += pause_s
        added.append(desk.add(windows, urgency, *excluded))
        decide()
        if len(running) > 4:
            desk.end(running.popleft())
            decide()
    for _ in range(10 * len(arrivals)):
        desk.now += 1.0
        if running:
            desk.end(running.popleft())
        decide()
    assert len(done) == len(added)
    assert set(done) == set(added)
    assert not running
    assert desk.pool.held is None
    assert desk.pool.load == 0.0


# Suspects: uploads on which an engine has died.


@pytest.mark.parametrize("urgency", Urgency)
def test_two_suspects_are_not_on_one_engine_while_they_can_wait(urgency: Urgency) -> None:
    desk = Desk(3)
    tickets = [desk.suspect("e0", urgency) for _ in range(5)]
    charges = desk.assign()
    assert [charge.ticket for charge in charges] == tickets[:2]
    assert {charge.engine_id for charge in charges} == {"e1", "e2"}
    desk.now += 0.5
    desk.end(charges[0])
    (next_one,) = desk.assign()
    assert next_one.ticket is tickets[2]
    assert next_one.engine_id == charges[0].engine_id
    assert len(desk.pool.queue) == 2


def test_suspects_that_wait_hold_nobody_up() -> None:
    desk = Desk(2, limit=200)
    first = desk.suspect()
    for _ in range(40):
        desk.suspect()
    others = [desk.add() for _ in range(20)] + [desk.add(1, LONG) for _ in range(20)]
    assert desk.served() == [first, *others]
    assert (len(desk.pool.queue), len(desk.pool.apart)) == (40, 40)


def test_a_suspect_shares_an_engine_with_uploads_that_are_none() -> None:
    desk = Desk(2)
    desk.fill(count=6)
    suspect = desk.suspect()
    assert desk.served() == [suspect]


def test_after_three_seconds_suspects_go_where_they_can() -> None:
    desk = Desk(2)
    tickets = [desk.suspect() for _ in range(3)]
    assert desk.served() == tickets[:1]
    desk.now += 2.9
    assert desk.served() == []
    at = desk.dispatcher.next_wakeup(desk.now)
    assert at == pytest.approx(103.0)
    desk.now = at
    assert desk.served() == tickets[1:]
    assert len(desk.pool.queue) == len(desk.pool.apart) == 0
    assert desk.dispatcher.next_wakeup(desk.now) is None


def test_a_suspect_does_not_wait_apart_for_a_death_long_ago() -> None:
    desk = Desk(2)
    tickets = [desk.suspect(age_s=3.0) for _ in range(3)]
    assert desk.served() == tickets


def test_a_suspect_that_leaves_while_it_waits_is_gone() -> None:
    desk = Desk(2)
    desk.suspect()
    second = desk.suspect()
    desk.assign()
    desk.dispatcher.withdraw(second, desk.now)
    desk.now += 9.0
    assert desk.served() == []
    assert len(desk.pool.queue) == len(desk.pool.apart) == 0


def test_a_suspect_does_not_outwait_its_time_in_the_queue() -> None:
    desk = Desk(2)
    desk.suspect()
    desk.assign()
    second = ticket(1, SHORT, desk.now, excluded=frozenset(("e0",)))
    second.deaths.append(Death(EngineId("e0"), desk.now))
    second.expires_at = desk.now + 1.0
    desk.dispatcher.add(desk.pool, second, desk.now)
    desk.assign()
    assert desk.dispatcher.next_wakeup(desk.now) == desk.now + 1.0
    desk.now += 1.0
    (assignment,) = desk.dispatcher.assign(desk.now)
    assert (assignment.ticket, assignment.refusal) == (second, AdmissionRefusal.WAITED_TOO_LONG)


def test_a_suspect_without_an_engine_left_is_refused_at_once() -> None:
    desk = Desk(1)
    suspect = desk.suspect()
    (assignment,) = desk.dispatcher.assign(desk.now)
    assert (assignment.ticket, assignment.refusal) == (suspect, AdmissionRefusal.NO_ENGINE_LEFT)
    assert len(desk.pool.queue) == len(desk.pool.apart) == 0


def test_a_suspect_is_not_taken_past_the_others() -> None:
    desk = Desk(2)
    first = ticket(1, SHORT, desk.now)
    first.deaths.append(Death(EngineId("gone"), desk.now))
    assert desk.dispatcher.take(desk.pool, first, desk.now) is None


def test_work_that_nobody_serves_is_refused_when_the_dispatcher_asked_to_be_woken() -> None:
    """With times that are rounded otherwise when they are subtracted."""
    desk = Desk(1)
    (engine,) = desk.engines
    engine.is_on_trial, engine.trial_at = True, math.inf
    engine.record.bad(0.0)
    desk.registry.refresh(engine, 0.0)
    waits = []
    for step in range(200):
        desk.now = 59.1001432261131 + 0.37 * step
        desk.add()
        desk.dispatcher.assign(desk.now)
        while len(desk.pool.queue):
            woken_at = desk.dispatcher.next_wakeup(desk.now)
            assert woken_at is not None
            assert woken_at > desk.now, "it would be woken without end"
            desk.now = woken_at
            out = desk.dispatcher.assign(desk.now)
            waits += [each.refusal for each in out]
    assert waits == [AdmissionRefusal.NONE_IN_SERVICE] * 200
