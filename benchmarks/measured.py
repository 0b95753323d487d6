"""The simulator against two real H200s: the very uploads that they were given, and what they took.

    python -m benchmarks.measured

Prints for each way and load the simulated figures and, in brackets, the measured ones, in seconds.
The router of that time, whose rows docs/balancing.md has too, is simulated only where its limit
was fixed: how it ordered long work has changed since.
"""

import sys
from random import Random

from benchmarks.virtual import Clock, DirectRouter, FleetRouter, Request, SimEngine
from benchmarks.world import UNBOUNDED

from vllm_router.scheduling.work import windows_of

SHARES = ((0.90, 2.0, 30.0), (0.09, 60.0, 600.0), (0.01, 1800.0, 3600.0))
#: Windows of the mean upload, and what two engines gave at most.
MEAN_WINDOWS, PEAK_PER_S = 2.84023, 85.0
WARM_S = 15.0
#: Load, seconds, seed; short p50 and p99, p50 of 1 to 10 minutes and of more than 30.
MEASURED: dict[tuple[str, float, float, int], tuple[float, ...] | None] = {
    ("round robin", 0.6, 60.0, 3): (1.23, 7.62, 1.67, 5.70),
    ("fewest requests", 0.6, 60.0, 3): (0.95, 5.11, 1.17, 4.09),
    ("round robin", 0.8, 75.0, 1): (2.35, 6.41, 3.10, 6.09),
    ("fewest requests", 0.8, 75.0, 1): (2.17, 6.75, 2.56, 5.29),
    ("fewest requests", 0.8, 60.0, 1): (1.87, 7.90, 2.39, 5.93),
    ("this router", 0.6, 60.0, 3): None,
    ("this router", 0.8, 75.0, 1): None,
}


def arrivals(load: float, seconds: float, seed: int) -> list[tuple[float, float]]:
    """Return the uploads of a run, as they were drawn when it was measured."""
    rng, out, at = Random(seed), [], 0.0
    while (at := at + rng.expovariate(PEAK_PER_S * load / MEAN_WINDOWS)) < WARM_S + seconds:
        lot, kind = rng.random(), 0
        while kind < 2 and lot >= SHARES[kind][0]:
            lot -= SHARES[kind][0]
            kind += 1
        length_s = rng.uniform(*SHARES[kind][1:])
        rng.uniform(0.0, 3690.0 - length_s)  # from where in an hour of speech it was cut
        out.append((at, length_s))
    return out


def figures(way: str, load: float, seconds: float, seed: int) -> list[float]:
    """Return what a way comes to in the simulator."""
    clock = Clock()
    engines = [SimEngine(clock, 46.0, 18.5, 168, 0.016) for _ in range(2)]
    router: DirectRouter | FleetRouter
    if way == "this router":
        router = FleetRouter(clock, engines, UNBOUNDED, Random(1), scrape_s=1.0, piece_work=1.03)
    else:
        router = DirectRouter(clock, engines, way, Random(1))
    requests = []
    for at, length_s in arrivals(load, seconds, seed):
        request = Request(at, length_s, [1.0] * windows_of(length_s))
        clock.at(at, lambda request=request: router.take(request))
        if at >= WARM_S:
            requests.append(request)
    clock.run(WARM_S + seconds + 240.0)
    out = []
    for quantile, low, high in ((0.5, 0, 30), (0.99, 0, 30), (0.5, 60, 600), (0.5, 1800, 3600)):
        found = sorted(r.latency_s or 0.0 for r in requests if low <= r.audio_s <= high)
        out.append(found[min(len(found) - 1, int(quantile * len(found)))])
    return out


def main() -> int:
    """Print the table."""
    print("| way, load | short p50 | short p99 | 1 to 10 min p50 | over 30 min p50 |")
    print("| --- | --- | --- | --- | --- |")
    for (way, load, seconds, seed), real in MEASURED.items():
        mine = figures(way, load, seconds, seed)
        was = [""] * 4 if real is None else [f" ({each})" for each in real]
        cells = " | ".join(f"{each:.2f}{told}" for each, told in zip(mine, was, strict=True))
        print(f"| {way}, {load:.0%} for {seconds:.0f} s | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
