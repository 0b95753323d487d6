"""Randomised histories of arrivals, failures, leaves and drains: nothing lost, nothing done twice.

`HISTORIES=100000 pytest tests/scheduling/test_histories.py` runs as many as that.
"""

import os
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vllm_router.scheduling.balance import POLICIES
from vllm_router.scheduling.changes import Appeared, Listing, Withdrawn
from vllm_router.scheduling.engine import EngineId, EngineSpec, EngineState
from vllm_router.scheduling.engine_metrics import EngineStats
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.registry import FleetSettings
from vllm_router.scheduling.work import (
    Charge,
    Outcome,
    OutcomeKind,
    QueueFull,
    Ticket,
    Urgency,
)

HISTORIES = int(os.environ.get("HISTORIES", "60"))
ENGINES = [EngineId(f"http://e{number}") for number in range(5)]
MODELS = ("a", "b")
engines = st.sampled_from(ENGINES)
FAILED = (
    OutcomeKind.UNREACHABLE,
    OutcomeKind.RESET,
    OutcomeKind.BAD_STATUS,
    OutcomeKind.TIMEOUT,
)


class Histories(RuleBasedStateMachine):
    """A fleet beside a plain account of what it was given and what it gave out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.waiting: dict[int, Ticket] = {}
        self.running: dict[int, Charge] = {}
        self.fate: dict[int, str] = {}
        self.made = 0

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        limit=st.sampled_from([None, 1, 3, 40]),
        share=st.sampled_from([1.0, 0.25]),
        wait=st.sampled_from([None, 20.0]),
    )
    def start(self, policy: str, limit: int | None, share: float, wait: float | None) -> None:
        self.fleet = Fleet(
            FleetSettings(
                policy=policy,
                max_windows=limit,
                limit_share=share,
                max_queue_wait_s=wait,
                max_queue_audio_s=3000.0,
            ),
            Random(1),
        )
        self.fleet.apply(Listing(tuple(self.spec(each) for each in ENGINES[:3])), self.now)
        for each in ENGINES[:3]:
            self.fleet.observe_probe(each, True, 0.1, None, False, self.now)

    @staticmethod
    def spec(engine_id: EngineId) -> EngineSpec:
        models = MODELS if engine_id.endswith(("0", "1")) else MODELS[:1]
        return EngineSpec(engine_id, str(engine_id), models)

    # What may happen.

    @rule(
        model=st.sampled_from(MODELS),
        windows=st.sampled_from([1, 1, 1, 2, 30]),
        is_long=st.booleans(),
        key=st.sampled_from([None, "x", "y"]),
        count=st.integers(1, 6),
    )
    def arrive(self, model: str, windows: int, is_long: bool, key: str | None, count: int) -> None:
        for _ in range(count):
            self.made += 1
            urgency = Urgency.LONG if is_long else Urgency.SHORT
            ticket = Ticket(str(self.made), model, 30.0 * windows, windows, urgency, self.now, key)
            try:
                self.fleet.submit(ticket, self.now)
            except QueueFull:
                self.fate[self.made] = "turned away"
            else:
                self.waiting[self.made] = ticket
        self.decide()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.7, 3.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def beat(self) -> None:
        self.fleet.beat(self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def engine_dies(self, data: st.DataObject) -> None:
        """All that an engine holds breaks off, and is tried again at once."""
        number = data.draw(st.sampled_from(sorted(self.running)))
        engine_id = self.running[number].engine_id
        for number, charge in sorted(self.running.items()):
            if charge.engine_id != engine_id:
                continue
            del self.running[number]
            ticket = charge.ticket
            self.fleet.died(charge, self.now)
            self.fleet.finish(charge, Outcome(OutcomeKind.RESET), self.now)
            ticket.excluded.add(engine_id)
            if len(ticket.deaths) > 1:
                self.fate[number] = "two deaths"
                continue
            self.fleet.submit(ticket, self.now)
            self.waiting[number] = ticket
        self.decide()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=st.sampled_from(OutcomeKind), again=st.booleans())
    def answer(self, data: st.DataObject, kind: OutcomeKind, again: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        charge = self.running.pop(number)
        self.fleet.finish(charge, Outcome(kind), self.now)
        assert charge.is_released
        ticket = charge.ticket
        if kind is OutcomeKind.RESET:
            self.fleet.died(charge, self.now)
        if again and kind in (*FAILED, OutcomeKind.UNDECIDED) and self.fleet.may_retry(self.now):
            ticket.excluded.add(charge.engine_id)
            self.fleet.submit(ticket, self.now)
            self.waiting[number] = ticket
        else:
            self.fate[number] = kind.value
        if kind is OutcomeKind.UNDECIDED:
            bad = Outcome(OutcomeKind.BAD_STATUS)
            self.fleet.blame(charge.engine_id, charge.started_at, bad, self.now)
        self.release_twice(charge)
        self.decide()

    def release_twice(self, charge: Charge) -> None:
        before = [(each.in_flight, each.windows_in_flight) for each in self.fleet.engines()]
        assert self.fleet.finish(charge, Outcome(OutcomeKind.RESET), self.now) == ()
        assert before == [(each.in_flight, each.windows_in_flight) for each in self.fleet.engines()]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        ticket = self.waiting.pop(number)
        self.fleet.withdraw(ticket, self.now)
        self.fleet.withdraw(ticket, self.now)
        self.fate[number] = "left"
        self.decide()

    @rule(engine_id=engines, ok=st.booleans(), is_timeout=st.booleans())
    def probe(self, engine_id: EngineId, ok: bool, is_timeout: bool) -> None:
        error = None if ok else "no"
        self.fleet.observe_probe(engine_id, ok, 0.1, error, is_timeout, self.now)
        self.decide()

    @rule(engine_id=engines, running=st.integers(0, 80), asleep=st.booleans())
    def scrape(self, engine_id: EngineId, running: int, asleep: bool) -> None:
        stats = EngineStats(float(running), 0.0, is_sleeping=asleep)
        self.fleet.observe_stats(engine_id, stats, self.now)
        self.decide()

    @rule(engine_id=engines)
    def scrape_fails(self, engine_id: EngineId) -> None:
        self.fleet.observe_stats(engine_id, None, self.now)

    @rule(engine_id=engines, models=st.sampled_from([(), ("a",), ("b",), ("a", "b")]))
    def serves(self, engine_id: EngineId, models: tuple[str, ...]) -> None:
        self.fleet.observe_models(engine_id, models, self.now)
        self.decide()

    @rule(engine_id=engines, what=st.sampled_from(["drain", "resume", "appear", "withdraw"]))
    def change(self, engine_id: EngineId, what: str) -> None:
        match what:
            case "drain":
                self.fleet.drain(engine_id, self.now)
            case "resume":
                self.fleet.resume(engine_id, self.now)
            case "appear":
                self.fleet.apply(Appeared(self.spec(engine_id)), self.now)
            case _:
                self.fleet.apply(Withdrawn(engine_id), self.now)
        self.decide()

    @rule(named=st.sets(engines))
    def relist(self, named: set[EngineId]) -> None:
        self.fleet.apply(Listing(tuple(self.spec(each) for each in sorted(named))), self.now)
        self.decide()

    def decide(self) -> None:
        for assignment in self.fleet.assign(self.now):
            number = int(assignment.ticket.request_id)
            assert self.waiting.pop(number) is assignment.ticket
            if assignment.charge is None:
                assert assignment.refusal is not None
                self.fate[number] = assignment.refusal.name
                continue
            charge = assignment.charge
            engine = self.fleet.engine(charge.engine_id)
            assert engine is not None
            assert engine.state in (EngineState.READY, EngineState.EJECTED)
            assert assignment.ticket.model in engine.models
            assert charge.engine_id not in assignment.ticket.excluded
            alone = engine.windows_in_flight == charge.windows
            assert alone or engine.windows_in_flight <= max(1.0, engine.limit) + 1
            assert number not in self.running
            self.running[number] = charge

    # What must always hold.

    @invariant()
    def everything_is_somewhere(self) -> None:
        places = [set(self.waiting), set(self.running), set(self.fate)]
        assert sum(map(len, places)) == len(set().union(*places)) == self.made
        assert self.fleet.waiting() == len(self.waiting)
        for view in self.fleet.queues():
            mine = [
                ticket
                for ticket in self.waiting.values()
                if (ticket.model, ticket.urgency) == (view.model, view.urgency)
            ]
            assert view.count == len(mine)
            assert view.audio_s == sum(ticket.audio_s for ticket in mine)

    @invariant()
    def engines_hold_what_was_charged(self) -> None:
        for engine in self.fleet.engines():
            mine = [charge for charge in self.running.values() if charge.engine is engine]
            assert engine.in_flight == len(mine)
            assert engine.windows_in_flight == sum(charge.windows for charge in mine)
            assert engine.audio_s_in_flight == sum(charge.audio_s for charge in mine)
            suspects = [charge for charge in mine if charge.is_suspect]
            assert engine.suspects == len(suspects)
            apart = [each for each in suspects if each.ticket.apart_until() > self.now]
            assert len(apart) <= 1
            # What others have there is a mean, so that the sum is rounded.
            assert engine.load == pytest.approx(engine.windows_in_flight + engine.elsewhere)

    def teardown(self) -> None:
        """When all is well again, everything that waits gets an engine."""
        if not hasattr(self, "fleet"):
            return
        self.fleet.apply(Listing(tuple(self.spec(each) for each in ENGINES)), self.now)
        for each in ENGINES:
            self.fleet.resume(each, self.now)
            self.fleet.observe_models(each, MODELS, self.now)
            self.fleet.observe_stats(each, EngineStats(0.0, 0.0), self.now)
        for step in [0.0] * 30 + [15.0] * 30:
            # The last steps are long enough for ejections to end and waits to be too long.
            self.now += step
            for each in ENGINES:
                self.fleet.observe_probe(each, True, 0.1, None, False, self.now)
            self.decide()
            for number, charge in tuple(self.running.items()):
                del self.running[number]
                self.fleet.finish(charge, Outcome(OutcomeKind.OK), self.now)
                self.fate[number] = "ok"
        self.everything_is_somewhere()
        self.engines_hold_what_was_charged()
        assert not self.waiting


TestHistories = pytest.mark.timeout(120 + HISTORIES)(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
