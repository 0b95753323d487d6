"""One simulated world: engines, routers, arrivals; and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from benchmarks.mix import arrivals, mean_windows
from benchmarks.virtual import Clock, DirectRouter, FleetRouter, Request, Router, SimEngine

from vllm_router.scheduling.fleet_settings import FleetSettings

DIRECT = ("round robin", "fewest requests", "fewest windows")
UNBOUNDED = FleetSettings(max_queue_audio_s=None, max_queue_wait_s=None)
# Peak windows per second and the number in service at half of it. Only the H200 was measured; the
# others keep its shape at a plausible fraction.
GPUS = {"h200": (57.5, 18.5), "a100": (17.0, 8.0), "l4": (5.0, 3.0)}

Change = Callable[[Clock, list[SimEngine]], None]


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated.

    Attributes:
        way: A rule without a queue (`DIRECT`) or the name of a policy.
        load: Windows coming in over the sum of the engines' peaks.
        gpus: The kind of each engine.
        seconds: How long requests come in.
        warmup_s: Requests that come earlier are not counted.
        seed: Of arrivals and ties.
        spread: See `benchmarks.mix.arrivals`.
        routers: Routers that share the engines and nothing else.
        scrape_s: Interval of scrapes.
        splits: Whether long audio goes in pieces.
        peak_per_s: What `load` is a part of; None: the sum of the engines' peaks.
        settings: The fleet's; the policy in it is replaced by `way`.
        change: Called at the start, to arrange for something to happen.
    """

    way: str = "least-loaded"
    load: float = 0.8
    gpus: tuple[str, ...] = ("h200",) * 8
    seconds: float = 300.0
    warmup_s: float = 60.0
    seed: int = 1
    spread: float = 0.0
    routers: int = 1
    scrape_s: float = 10.0
    splits: bool = True
    peak_per_s: float | None = None
    settings: FleetSettings = UNBOUNDED
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    requests: list[Request] = field(repr=False)
    engines: list[SimEngine] = field(repr=False)
    routers: list[Router] = field(repr=False)

    def of(self, low_s: float, high_s: float) -> list[float]:
        """Return the latencies of audio of some length, sorted; unanswered ones are infinite."""
        return sorted(
            float("inf") if request.latency_s is None else request.latency_s
            for request in self.requests
            if low_s <= request.audio_s <= high_s
        )

    def short_s(self, quantile: float) -> float:
        """Return a quantile of the latency of requests up to 30 s, in seconds."""
        return _quantile(self.of(0.0, 30.0), quantile)

    def middle_s(self, quantile: float) -> float:
        """Return a quantile of the latency of requests of 1 to 10 minutes, in seconds."""
        return _quantile(self.of(60.0, 600.0), quantile)

    def files_s(self, quantile: float) -> float:
        """Return a quantile of the latency of files over 30 minutes, in seconds."""
        return _quantile(self.of(1800.0, 1e9), quantile)

    @property
    def failed(self) -> int:
        """Requests that got no answer."""
        return sum(request.is_failed for request in self.requests)


def _quantile(values: list[float], quantile: float) -> float:
    return values[min(len(values) - 1, int(quantile * len(values)))] if values else float("nan")


def run(world: World) -> Result:
    """Let a world happen."""
    clock = Clock()
    engines = [SimEngine(clock, *GPUS[gpu]) for gpu in world.gpus]
    peak = world.peak_per_s or sum(engine.peak for engine in engines)
    routers = [_router(world, clock, engines, number) for number in range(world.routers)]
    if world.change is not None:
        world.change(clock, engines)
    coming = arrivals(
        world.load * peak / mean_windows(), world.seconds, Random(world.seed), world.spread
    )
    door = Random(world.seed + 1)
    requests: list[Request] = []

    def next_one() -> None:
        request = next(coming, None)
        if request is None:
            return

        def arrive() -> None:
            door.choice(routers).take(request)
            next_one()

        if request.at >= world.warmup_s:
            requests.append(request)
        clock.at(request.at, arrive)

    next_one()
    # What is still under way when the last has come gets time to end.
    clock.run(world.seconds + 120.0)
    return Result(requests, engines, routers)


def _router(world: World, clock: Clock, engines: list[SimEngine], number: int) -> Router:
    rng = Random(world.seed * 1000 + number)
    if world.way in DIRECT:
        return DirectRouter(clock, engines, world.way, rng)
    return FleetRouter(
        clock,
        engines,
        replace(world.settings, policy=world.way),
        rng,
        splits=world.splits,
        scrape_s=world.scrape_s,
    )
