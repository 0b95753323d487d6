"""The fleet in virtual time: shares follow capacity, nothing starves, nothing idles beside work."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from benchmarks.virtual import Clock, FleetRouter, Request, SimEngine
from benchmarks.world import UNBOUNDED
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.scheduling.work import OutcomeKind


@dataclass(slots=True)
class Played:
    """A router in virtual time, what it gave to whom, and what became of it."""

    clock: Clock
    router: FleetRouter
    engines: list[SimEngine]
    taken: list[tuple[float, SimEngine]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def watch(self, engine: SimEngine) -> SimEngine:
        def told(windows: int) -> None:
            self.taken.extend([(self.clock.now, engine)] * windows)

        engine.told = told
        return engine

    def send(self, audio_s: float = 10.0) -> Request:
        windows = max(1, -int(-audio_s // 30))
        request = Request(self.clock.now, audio_s, [1.0] * windows)
        self.requests.append(request)
        self.router.take(request)
        return request

    def client(self, until_s: float, pause_s: float) -> None:
        """Send one clip after the other."""
        request = self.send()

        def look() -> None:
            if request.done_at is None:
                self.clock.at(self.clock.now + pause_s, look)
            elif self.clock.now < until_s:
                self.client(until_s, pause_s)

        look()

    def add(self, *engines: SimEngine) -> None:
        self.engines += [self.watch(each) for each in engines]
        self.router.list_engines(list(self.engines))

    def shares(self, taken: list[tuple[float, SimEngine]]) -> list[float]:
        counts = Counter(id(engine) for _, engine in taken)
        return [counts[id(engine)] / max(1, len(taken)) for engine in self.engines]


def played(*curves: tuple[float, float], cold_s: float = 0.0, seed: int = 1) -> Played:
    clock = Clock()
    engines = [SimEngine(clock, *curve, most=256, warmup_s=cold_s) for curve in curves]
    out = Played(clock, FleetRouter(clock, [], UNBOUNDED, Random(seed), scrape_s=1.0), [])
    out.add(*engines)
    return out


SPEEDS = [(0.3, 0.3), (5.0, 3.0), (57.5, 18.5), (120.0, 8.0), (2000.0, 64.0)]


@pytest.mark.parametrize("curve", SPEEDS)
@pytest.mark.parametrize("cold_s", [0.0, 30.0])
@pytest.mark.parametrize("clients", [1, 7])
def test_equal_engines_of_any_speed_have_equal_shares(
    curve: tuple[float, float], cold_s: float, clients: int
) -> None:
    world = played(curve, curve, curve, cold_s=cold_s / curve[0])
    window_s = (1.0 + curve[1]) / curve[0]
    for _ in range(clients):
        world.client(1e9, window_s / 20.0)
    while len(world.taken) < 400:
        world.clock.run(world.clock.now + window_s)
    assert world.shares(world.taken[200:400]) == pytest.approx([1 / 3] * 3, rel=0.1)


def test_engines_warmed_up_one_request_at_a_time_share_what_comes_then() -> None:
    world = played((120.0, 8.0), (120.0, 8.0), (120.0, 8.0))
    for number in range(6):
        world.clock.at(number * 1.0, world.send)
    world.clock.run(10.0)
    for _ in range(10):
        world.client(1e9, 0.004)
    before = len(world.taken)
    while len(world.taken) < before + 300:
        world.clock.run(world.clock.now + 0.1)
    assert world.shares(world.taken[before:]) == pytest.approx([1 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("clients", [3, 10, 30])
@pytest.mark.parametrize("curve", SPEEDS[1:])
def test_engines_that_are_added_under_load_get_their_share(
    curve: tuple[float, float], clients: int
) -> None:
    world = played(curve)
    window_s = (1.0 + curve[1]) / curve[0]
    for _ in range(clients):
        world.client(1e9, window_s / 20.0)
    world.clock.run(60.0 * window_s)
    world.add(*(SimEngine(world.clock, *curve, most=256) for _ in range(2)))
    at, before = world.clock.now, len(world.taken)
    while len(world.taken) < before + 120:
        world.clock.run(world.clock.now + window_s)
    soon = world.shares(world.taken[before + 60 : before + 120])
    assert min(soon[1:]) >= 0.5 / 3, "half of their share after twenty windows each"
    world.clock.run(max(world.clock.now, at + 30.0 * window_s))
    before = len(world.taken)
    while len(world.taken) < before + 300:
        world.clock.run(world.clock.now + window_s)
    assert world.shares(world.taken[before:]) == pytest.approx([1 / 3] * 3, rel=0.12)


CURVES = st.tuples(st.floats(0.5, 500.0), st.floats(0.5, 40.0))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(CURVES, min_size=1, max_size=5), st.integers(0, 1000), st.floats(0.2, 1.5))
def test_with_any_curves_and_arrivals_all_is_served_and_no_charge_is_left(
    curves: list[tuple[float, float]], seed: int, load: float
) -> None:
    world = played(*curves, seed=seed)
    peak = sum(peak for peak, _ in curves)
    rng = Random(seed)
    at = 0.0
    for _ in range(250):
        audio_s = rng.choice((10.0, 10.0, 10.0, 200.0))
        at += rng.expovariate(load * peak / 2.75)
        world.clock.at(at, lambda audio_s=audio_s: world.send(audio_s))
    idle_beside_work: list[str] = []

    def look() -> None:
        fleet = world.router.fleet
        waits = fleet.waiting()
        idle_beside_work.extend(
            f"{engine} beside {waits} at {world.clock.now}"
            for engine in fleet.engines()
            if waits and not engine.windows_in_flight and engine.state.value == "ready"
        )
        if world.clock.now < at:
            world.clock.at(world.clock.now + at / 100.0, look)

    world.clock.at(at / 100.0, look)
    slowest_s = max((1.0 + half_at) / peak for peak, half_at in curves)
    world.clock.run(at + 2000.0 * slowest_s)
    assert idle_beside_work == []
    assert all(request.latency_s is not None for request in world.requests)
    for engine in world.router.fleet.engines():
        assert (engine.in_flight, engine.windows_in_flight) == (0, 0)
        assert engine.audio_s_in_flight == pytest.approx(0.0)
    assert world.router.fleet.waiting() == 0


@pytest.mark.parametrize("speeds", [(40.0, 10.0), (40.0, 40.0, 10.0, 10.0), (60.0, 20.0, 5.0)])
def test_with_mixed_speeds_shares_follow_capacity(speeds: tuple[float, ...]) -> None:
    world = played(*((peak, peak / 4.0) for peak in speeds))
    rng = Random(3)
    at, mean = 0.0, 0.9 + 0.1 * 11.0
    while at < 120.0:
        at += rng.expovariate(0.8 * sum(speeds) / mean)
        audio_s = 10.0 if rng.random() < 0.9 else rng.uniform(60.0, 600.0)
        world.clock.at(at, lambda audio_s=audio_s: world.send(audio_s))
    world.clock.run(120.0)
    taken = [each for each in world.taken if each[0] > 30.0]
    wanted = [peak / sum(speeds) for peak in speeds]
    assert world.shares(taken) == pytest.approx(wanted, rel=0.15)


def test_an_engine_is_not_filled_beyond_what_its_cache_holds() -> None:
    clock = Clock()
    engine = SimEngine(clock, 57.5, 18.5, most=100)
    world = Played(clock, FleetRouter(clock, [], UNBOUNDED, Random(1), scrape_s=1.0), [])
    world.add(engine)
    waited: list[int] = []
    for _ in range(400):
        world.client(1e9, 0.05)

    def look() -> None:
        waited.append(len(engine.waiting))
        clock.at(clock.now + 0.5, look)

    clock.at(20.0, look)
    clock.run(60.0)
    assert sum(waited) / len(waited) < 2.0
    assert engine.finished / 60.0 > 0.75 * 57.5 * 100 / 118.5


def before_engines(count: int) -> tuple[Played, list[SimEngine]]:
    clock = Clock()
    engines = [SimEngine(clock, 57.5, 18.5) for _ in range(count)]
    world = Played(clock, FleetRouter(clock, [], UNBOUNDED, Random(1)), [])
    world.add(*engines)
    for number in range(600):
        clock.at(number / 20.0, world.send)
    return world, engines


def test_an_engine_that_refuses_everything_costs_no_upload() -> None:
    world, engines = before_engines(4)
    world.clock.run(5.0)
    engines[0].fault = OutcomeKind.UNDECIDED
    engines[0].passes_probes = True
    before = len(world.taken)
    world.clock.run(60.0)
    assert not any(request.is_failed for request in world.requests)
    refused = sum(engine is engines[0] for _, engine in world.taken[before:])
    assert 3 <= refused <= 20, "it is found, and tried again now and then"


def test_poison_ends_two_engines_and_no_other_upload() -> None:
    world, engines = before_engines(4)
    for engine in engines:
        engine.down_s = 2.0
    world.clock.run(5.0)
    poison = Request(5.0, 10.0, [1.0], is_poison=True)
    world.router.take(poison)
    world.clock.run(60.0)
    assert poison.is_failed
    assert poison.attempts == 2
    assert not any(request.is_failed for request in world.requests)
    assert not any(engine.is_broken for engine in engines)
