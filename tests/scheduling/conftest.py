"""A fleet with ready engines, and shorthands for what happens to it."""

from collections.abc import Callable
from random import Random

import pytest

from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.registry import FleetSettings
from vllm_router.scheduling.work import Charge, Outcome, OutcomeKind, Ticket, Urgency


class Driver:
    """A fleet, a clock, and words for the usual steps."""

    def __init__(self, count: int, settings: FleetSettings | None = None) -> None:
        self.fleet = Fleet(settings or FleetSettings(), Random(7))
        self.now = 100.0
        self.ids = [EngineId(f"http://e{number}") for number in range(count)]
        self.fleet.apply(Listing(tuple(self.spec(each) for each in self.ids)), self.now)
        for each in self.ids:
            self.probe(each)
        self._made = 0

    @staticmethod
    def spec(engine_id: EngineId, models: tuple[str, ...] | None = ("m",)) -> EngineSpec:
        return EngineSpec(engine_id, str(engine_id), models)

    def probe(self, engine_id: EngineId, ok: bool = True, is_timeout: bool = False):
        error = None if ok else "refused"
        return self.fleet.observe_probe(engine_id, ok, 0.1, error, is_timeout, self.now)

    def ticket(self, windows: int = 1, long: bool = False, **more: object) -> Ticket:
        self._made += 1
        urgency = Urgency.LONG if long else Urgency.SHORT
        model = more.pop("model", "m")
        return Ticket(f"r{self._made}", model, 30.0 * windows, windows, urgency, self.now, **more)

    def submit(self, windows: int = 1, long: bool = False, **more: object) -> Ticket:
        ticket = self.ticket(windows, long, **more)
        self.fleet.submit(ticket, self.now)
        return ticket

    def charges(self) -> list[Charge]:
        return [each.charge for each in self.fleet.assign(self.now) if each.charge is not None]

    def start(self, windows: int = 1, long: bool = False, **more: object) -> Charge | None:
        self.submit(windows, long, **more)
        charges = self.charges()
        return charges[0] if charges else None

    def end(self, charge: Charge, kind: OutcomeKind = OutcomeKind.OK):
        return self.fleet.finish(charge, Outcome(kind), self.now)

    def state(self, engine_id: EngineId) -> str:
        engine = self.fleet.engine(engine_id)
        return "gone" if engine is None else engine.state.value


@pytest.fixture
def driver() -> Callable[..., Driver]:
    return Driver
