"""Worlds in which something is odd, each with the figures that tell how the fleet takes it."""

from collections.abc import Callable
from dataclasses import replace

from benchmarks.virtual import Clock, SimEngine
from benchmarks.world import Result, World, run

Say = Callable[[str], None]


def _line(name: str, result: Result) -> str:
    return (
        f"{name:44} short p50 {result.short_s(0.5):5.2f} p99 {result.short_s(0.99):5.2f}"
        f"  1-10 min p50 {result.middle_s(0.5):5.2f}  files p50 {result.files_s(0.5):5.2f}"
        f"  failed {result.failed}"
    )


def slow_engine(world: World, say: Say) -> None:
    """One engine of eight at a quarter of its speed, from the start and from the middle on."""
    peak = 57.5 * 8
    for load in (0.6, 0.8):
        base = replace(world, load=load, peak_per_s=peak)

        def slow_down(at_s: float) -> Callable[[Clock, list[SimEngine]], None]:
            return lambda clock, engines: clock.at(at_s, lambda: engines[3].set_speed(57.5 / 4))

        say(_line(f"{load:.0%}, 8 engines", run(base)))
        say(_line(f"{load:.0%}, 7 engines", run(replace(base, gpus=("h200",) * 7))))
        say(_line(f"{load:.0%}, 8, one at a quarter", run(replace(base, change=slow_down(0)))))
        middle = slow_down(world.seconds / 2)
        say(_line(f"{load:.0%}, 8, one slows down midway", run(replace(base, change=middle))))


def black_hole(world: World, say: Say) -> None:
    """One engine of eight answers errors at once, and its probes well."""
    at_s = world.warmup_s
    for load in (0.3, 0.6, 0.8):
        hits: list[float] = []

        def swallow(clock: Clock, engines: list[SimEngine], hits: list[float] = hits) -> None:
            hole = engines[3]
            take = hole.take

            def counted(works: list[float], done: Callable[..., None]) -> None:
                if hole.is_broken:
                    hits.append(clock.now)
                take(works, done)

            hole.take = counted  # type: ignore[method-assign]
            hole.passes_probes = True
            clock.at(at_s, lambda: setattr(hole, "is_broken", True))

        result = run(replace(world, load=load, change=swallow))
        later = sum(hit > at_s + 1.0 for hit in hits)
        total = sum(request.attempts for request in result.requests if request.at > at_s + 1.0)
        say(
            _line(f"{load:.0%}, a black hole", result)
            + f"; {len(hits) - later} attempts in its first second, then {later / total:.3%}"
        )


def crashes(world: World, say: Say) -> None:
    """Every 20 s one engine dies for 5 s with all it has."""

    def crash(clock: Clock, engines: list[SimEngine]) -> None:
        def die(number: int) -> None:
            engine = engines[number % len(engines)]
            engine.die()
            clock.at(clock.now + 5.0, lambda: setattr(engine, "is_broken", False))
            clock.at(clock.now + 20.0, lambda: die(number + 3))

        clock.at(world.warmup_s, lambda: die(0))

    for load in (0.3, 0.6):
        say(
            _line(
                f"{load:.0%}, an engine dies every 20 s",
                run(replace(world, load=load, change=crash)),
            )
        )


def mixed_gpus(world: World, say: Say) -> None:
    """Four H200, four A100 and four L4."""
    gpus = ("h200",) * 4 + ("a100",) * 4 + ("l4",) * 4
    for load in (0.6, 0.8):
        for way in ("round robin", "fewest requests", "least-loaded", "two-choices"):
            result = run(replace(world, load=load, gpus=gpus, way=way))
            say(_line(f"{load:.0%}, mixed GPUs, {way}", result))


def several_routers(world: World, say: Say) -> None:
    """One, three and six routers that share nothing, scraping every ten and every two seconds."""
    for load in (0.6, 0.8):
        for routers in (1, 3, 6):
            for scrape_s in (10.0, 2.0):
                changed = replace(world, load=load, routers=routers, scrape_s=scrape_s)
                say(_line(f"{load:.0%}, {routers} routers, scrape {scrape_s:g} s", run(changed)))


def whole_files(world: World, say: Say) -> None:
    """Long audio goes whole to one engine, as where it cannot be split."""
    for load in (0.6, 0.8):
        for way in ("round robin", "fewest requests", "least-loaded"):
            result = run(replace(world, load=load, way=way, splits=False))
            say(_line(f"{load:.0%}, files whole, {way}", result))


def large_fleets(world: World, say: Say) -> None:
    """A hundred engines, and a thousand."""
    for count, seconds in ((100, 90.0), (1000, 12.0)):
        for way in ("round robin", "fewest requests", "least-loaded"):
            changed = replace(
                world, way=way, gpus=("h200",) * count, seconds=seconds, warmup_s=seconds / 3
            )
            say(_line(f"{changed.load:.0%}, {count} engines, {way}", run(changed)))


SCENARIOS: dict[str, Callable[[World, Say], None]] = {
    "slow-engine": slow_engine,
    "black-hole": black_hole,
    "crashes": crashes,
    "mixed-gpus": mixed_gpus,
    "several-routers": several_routers,
    "whole-files": whole_files,
    "large-fleets": large_fleets,
}
