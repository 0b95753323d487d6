"""Worlds as data, in virtual time: `benchmarks/worlds/*.yaml`, each against other ways to balance.

    python -m benchmarks.worlds                     # all of them, one seed
    python -m benchmarks.worlds l4 h200 --seeds 1,2
    python -m benchmarks.worlds --write             # and the tables into docs/balancing.md

A world names its engines (how many, and their curve: windows per second approached, windows in
service at half of that, and what the KV cache holds), what uploads come, and what happens when.
The ways: `round robin`, `fewest requests` and `two choices` send each upload at once and whole to
one engine, and so does `oracle`, to the engine that would be done with it first, by its true curve.
`oracle with a queue` is this router's own code that knows all curves from the start.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml
from benchmarks.virtual import Clock, DirectRouter, FleetRouter, Request, SimEngine
from benchmarks.world import UNBOUNDED

from vllm_router.scheduling.work import OutcomeKind, windows_of

FOLDER = Path(__file__).with_name("worlds")
DOCS = FOLDER.parents[1] / "docs" / "balancing.md"
OURS = "this router"
KNOWING = "oracle with a queue"
WAYS = ("round robin", "fewest requests", "two choices", "oracle", KNOWING, OURS)
#: Shares and lengths in seconds: short clips, minutes, long files.
MIX = ((0.90, 2.0, 30.0), (0.09, 60.0, 600.0), (0.01, 1800.0, 3600.0))
MARK = re.compile(r"(<!-- worlds begin -->\n).*?(<!-- worlds end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kind:
    """Engines of one kind; see `SimEngine`."""

    peak: float
    half_at: float
    count: int = 1
    holds: int = 256
    front_ms: float = 0.0
    cold_s: float = 0.0
    gpu: str | None = None

    def make(self, clock: Clock) -> SimEngine:
        """Return one of them."""
        front_s = self.front_ms / 1000.0
        return SimEngine(clock, self.peak, self.half_at, self.holds, front_s, self.cold_s, self.gpu)


@dataclass(frozen=True, slots=True)
class World:
    """A world as its file tells it.

    Attributes:
        name: The file's.
        about: One sentence.
        engines: By kind.
        loads: Parts of `peak_per_s` that are asked for, one after the other.
        peak_per_s: Windows per second; 0: the sum of the engines' peaks.
        seconds: How long uploads come.
        warmup_s: Uploads before that are not counted.
        mix: Shares of uploads and their shortest and longest seconds.
        piece_work: What a piece costs an engine, over a window of a whole upload.
        events: What happens when.
    """

    name: str
    about: str
    engines: tuple[Kind, ...]
    loads: tuple[float, ...] = (0.6, 0.8, 0.9)
    peak_per_s: float = 0.0
    seconds: float = 120.0
    warmup_s: float = 30.0
    mix: tuple[tuple[float, float, float], ...] = MIX
    piece_work: float = 1.03
    events: tuple[Mapping[str, Any], ...] = ()


def read(path: Path) -> World:
    """Read a world's file."""
    told = yaml.safe_load(path.read_text())
    told["engines"] = tuple(Kind(**each) for each in told["engines"])
    for name in ("loads", "events"):
        if name in told:
            told[name] = tuple(told[name])
    if "mix" in told:
        told["mix"] = tuple(tuple(each) for each in told["mix"])
    return World(name=path.stem, **told)


@dataclass(slots=True)
class Result:
    """What came of a world.

    Attributes:
        requests: Those that count.
        taken: When each engine was given an upload or piece, and of how many windows.
        peaks: Windows per second of each engine at the start.
        poison_share: Part of the short uploads that now end the engine they come to, and which do
            not count.
    """

    requests: list[Request] = field(repr=False)
    taken: dict[int, list[tuple[float, int]]] = field(repr=False)
    peaks: list[float]
    poison_share: float = 0.0

    def latency_s(self, quantile: float, low_s: float, high_s: float) -> float:
        """Return a quantile of the latency of audio of some length; unanswered is infinite."""
        found = sorted(
            math.inf if each.latency_s is None else each.latency_s
            for each in self.requests
            if low_s <= each.audio_s <= high_s
        )
        return found[min(len(found) - 1, int(quantile * len(found)))] if found else math.nan

    def figures(self) -> tuple[float, float, float, float]:
        """Return p50 and p99 of short uploads, p50 of minutes and of long files, in seconds."""
        return (
            self.latency_s(0.5, 0.0, 30.0),
            self.latency_s(0.99, 0.0, 30.0),
            self.latency_s(0.5, 60.0, 600.0),
            self.latency_s(0.5, 1800.0, math.inf),
        )

    @property
    def failed(self) -> int:
        """Uploads that got no answer."""
        return sum(each.latency_s is None for each in self.requests)

    def share_error(self, since_s: float, until_s: float = math.inf) -> float:
        """Return how far, relative, the windows of any engine are off its part of the capacity."""
        done = [sum(n for at, n in each if since_s <= at < until_s) for each in self.taken.values()]
        total, peak = sum(done), sum(self.peaks)
        if not total or len(done) != len(self.peaks):
            return math.nan
        return max(abs(n / total / (p / peak) - 1.0) for n, p in zip(done, self.peaks, strict=True))


def mean_windows(mix: tuple[tuple[float, float, float], ...]) -> float:
    """Return the windows of the mean upload."""
    steps = 2000
    return sum(
        share * sum(windows_of(low + (high - low) * (step + 0.5) / steps) for step in range(steps))
        for share, low, high in mix
    ) / (steps * sum(share for share, _, _ in mix))


def run(world: World, way: str, load: float, seed: int) -> Result:
    """Let a world happen."""
    clock = Clock()
    live = [kind.make(clock) for kind in world.engines for _ in range(kind.count)]
    peaks = [each.peak for each in live]
    result = Result([], {}, peaks)
    for engine in live:
        _watch(clock, engine, result)
    router = _router(world, way, clock, live, seed)
    _arrange(world, clock, live, router, result)
    rate = load * (world.peak_per_s or sum(peaks)) / mean_windows(world.mix)
    rng, lots = Random(seed), Random(seed)

    def arrive(at: float) -> None:
        def come() -> None:
            weights = [share for share, _, _ in world.mix]
            [(_, low, high)] = rng.choices(world.mix, weights)
            audio_s = rng.uniform(low, high)
            request = Request(clock.now, audio_s, [1.0] * windows_of(audio_s))
            request.is_poison = audio_s <= 30.0 and lots.random() < result.poison_share
            if clock.now >= world.warmup_s and not request.is_poison:
                result.requests.append(request)
            router.take(request)
            arrive(clock.now + rng.expovariate(rate))

        if at < world.seconds:
            clock.at(at, come)

    arrive(0.0)
    slowest_s = max((1.0 + each.half_at) / each.peak for each in live)
    clock.run(world.seconds + max(120.0, 400.0 * slowest_s))
    return result


def _router(
    world: World, way: str, clock: Clock, live: list[SimEngine], seed: int
) -> DirectRouter | FleetRouter:
    if way in (OURS, KNOWING):
        return FleetRouter(
            clock,
            list(live),
            UNBOUNDED,
            Random(seed),
            scrape_s=1.0,
            piece_work=world.piece_work,
            is_knowing=way == KNOWING,
        )
    return DirectRouter(clock, list(live), way, Random(seed))


def _watch(clock: Clock, engine: SimEngine, result: Result) -> None:
    taken: list[tuple[float, int]] = []
    result.taken[id(engine)] = taken
    engine.told = lambda works: taken.append((clock.now, works))


def _arrange(
    world: World,
    clock: Clock,
    live: list[SimEngine],
    router: DirectRouter | FleetRouter,
    result: Result,
) -> None:
    first = world.engines[0]

    def start(count: int) -> None:
        for _ in range(count):
            engine = first.make(clock)
            _watch(clock, engine, result)
            live.append(engine)
        router.list_engines(list(live))

    def add(event: Mapping[str, Any]) -> None:
        start(event["add"])

    def remove(event: Mapping[str, Any]) -> None:
        del live[-event["remove"] :]
        router.list_engines(list(live))

    def restart(event: Mapping[str, Any]) -> None:
        del live[0]
        router.list_engines(list(live))
        clock.at(clock.now + event["for_s"], partial(start, 1))

    def slow(event: Mapping[str, Any]) -> None:
        for number in event["engines"]:
            live[number].set_speed(live[number].peak * event["slow"])

        def end() -> None:
            for number in event["engines"]:
                live[number].set_speed(live[number].peak / event["slow"])

        clock.at(clock.now + event["for_s"], end)

    def fault(event: Mapping[str, Any]) -> None:
        for number in event["engines"]:
            live[number].fault = OutcomeKind(event["fault"])
            live[number].passes_probes = True

    def poison(event: Mapping[str, Any]) -> None:
        result.poison_share = event["poison"]
        for engine in live:
            engine.down_s = event["down_s"]

    changes = {
        "add": add,
        "remove": remove,
        "restart": restart,
        "slow": slow,
        "fault": fault,
        "poison": poison,
    }
    for event in world.events:
        change = next(changes[name] for name in changes if name in event)
        clock.at(event["at"], partial(change, event))


def mean(world: World, way: str, load: float, seeds: list[int]) -> tuple[list[float], float, float]:
    """Return the means over seeds: the four figures, the failed, the worst share's error."""
    results = [run(world, way, load, seed) for seed in seeds]
    rows = [each.figures() for each in results]
    return (
        [sum(column) / len(column) for column in zip(*rows, strict=True)],
        sum(each.failed for each in results) / sum(len(each.requests) for each in results),
        max(each.share_error(world.warmup_s, world.seconds) for each in results),
    )


def tell(world: World, seeds: list[int], ways: tuple[str, ...], say: Callable[[str], None]) -> None:
    """Say a world's table."""
    say(f"\n### {world.name}\n\n{world.about}\n")
    say("| load | way | short p50 | p99 | 1 to 10 min p50 | over 30 min p50 | failed | share off |")
    say("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for load in world.loads:
        for way in ways:
            figures, failed, off = mean(world, way, load, seeds)
            cells = " | ".join("" if math.isnan(each) else _seconds(each) for each in figures)
            share = "" if math.isnan(off) else f"{off:.0%}"
            say(f"| {load:.0%} | {way} | {cells} | {failed:.2%} | {share} |")


def _seconds(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:.2f}" if value < 100.0 else f"{value:.0f}"


def main(argv: list[str] | None = None) -> int:
    """Run the worlds that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--write", action="store_true", help="the tables into docs/balancing.md")
    asked = parser.parse_args(argv)
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    seeds = [int(seed) for seed in asked.seeds.split(",")]
    for path in sorted(FOLDER.glob("*.yaml")):
        if not asked.names or path.stem in asked.names:
            tell(read(path), seeds, tuple(asked.ways.split(",")), say)
    if asked.write:
        made = "\n".join(lines).strip()
        text = DOCS.read_text()
        DOCS.write_text(MARK.sub(lambda found: f"{found[1]}{made}\n{found[2]}", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
