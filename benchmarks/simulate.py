"""Compare ways to balance in virtual time, with the queue and policy code that the router runs.

    python -m benchmarks.simulate                        # eight equal engines
    python -m benchmarks.simulate --scenario mixed-gpus  # or another oddity; "all" for all of them
    python -m benchmarks.simulate --plot balancing.svg

Five minutes of eight engines take one to five seconds. Load is a part of what the engines approach
with very many windows in service (57.5 per second on an H200).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.scenarios import SCENARIOS
from benchmarks.world import DIRECT, Result, World, run

from vllm_router.scheduling.balance import POLICIES

Results = dict[tuple[str, float, int], Result]


def table(
    world: World, ways: list[str], loads: list[float], seeds: list[int], say: Callable[[str], None]
) -> Results:
    """Run every way at every load with every seed, and say a Markdown table of the means."""
    results: Results = {}
    say(
        "Seconds: p99 of requests up to 30 s, median of 1 to 10 min, median of files over 30 min.\n"
    )
    say("| load | " + " | ".join(ways) + " |")
    say("| --- |" + " --- |" * len(ways))
    for load in loads:
        cells = []
        for way in ways:
            of_way = []
            for seed in seeds:
                result = run(replace(world, way=way, load=load, seed=seed))
                results[way, load, seed] = result
                of_way.append((result.short_s(0.99), result.middle_s(0.5), result.files_s(0.5)))
            cells.append(
                ", ".join(f"{sum(part) / len(seeds):.1f}" for part in zip(*of_way, strict=True))
            )
        say(f"| {load:.0%} | " + " | ".join(cells) + " |")
    return results


def bars(results: Results, seeds: list[int], say: Callable[[str], None]) -> bool:
    """Say for each load whether the default policy keeps its promises, in the mean and by seed."""
    wanted = {0.6: (5.0, 2.0, 1.0), 0.8: (8.0, 2.5, 2.0), 0.9: (8.0, 2.5, 1.0)}
    all_hold = True
    for load in sorted({load for _, load, _ in results} & set(wanted)):

        def ratios(of: list[int], load: float = load) -> tuple[float, float, float]:
            def mean(way: str, figure: Callable[[Result], float]) -> float:
                return sum(figure(results[way, load, seed]) for seed in of) / len(of)

            ours = mean("least-loaded", lambda result: result.short_s(0.99))
            files = mean("least-loaded", lambda result: result.files_s(0.5))
            return (
                mean("round robin", lambda result: result.short_s(0.99)) / ours,
                mean("fewest requests", lambda result: result.short_s(0.99)) / ours,
                mean("round robin", lambda result: result.files_s(0.5)) / files,
            )

        def holds(of: list[int], load: float = load) -> bool:
            return all(is_ >= least for is_, least in zip(ratios(of), wanted[load], strict=True))

        than_robin, than_fewest, files = ratios(seeds)
        all_hold &= holds(seeds)
        say(
            f"{load:.0%}: short p99 {than_robin:.1f} times lower than round robin's and "
            f"{than_fewest:.1f} than fewest requests'; files {files:.1f} times sooner than round "
            f"robin's. Wanted {wanted[load]}: {'holds' if holds(seeds) else 'DOES NOT HOLD'}, and "
            f"in {sum(holds([seed]) for seed in seeds)} of {len(seeds)} runs by themselves."
        )
    return all_hold


def plot(world: World, ways: list[str], path: Path) -> None:
    """Draw latency against load, for short requests and for files."""
    import matplotlib

    matplotlib.use("Agg")
    # The same drawing every time: no dates, no random ids.
    matplotlib.rcParams["svg.hashsalt"] = "balancing"
    # Letters as text keep the drawing small.
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    loads = [0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for way in ways:
        points = [run(replace(world, way=way, load=load)) for load in loads]
        label = f"{way} (this router)" if way == "least-loaded" else way
        width = 2.2 if way == "least-loaded" else 1.2
        percent = [100 * load for load in loads]
        left.plot(percent, [each.short_s(0.99) for each in points], label=label, lw=width)
        right.plot(percent, [each.files_s(0.5) for each in points], label=label, lw=width)
    left.set_title("requests up to 30 s, p99", fontsize=10)
    right.set_title("files over 30 min, median", fontsize=10)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_xlabel("load, % of eight H200s' peak")
        axes.grid(True, which="both", alpha=0.25)
        axes.yaxis.set_major_formatter("{x:g}")
    left.set_ylabel("seconds")
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    every = [*DIRECT, *POLICIES]
    parser.add_argument("--ways", default=",".join(every), help="which, comma-separated")
    parser.add_argument("--loads", default="0.6,0.8,0.9")
    parser.add_argument("--seeds", default="11,12,13,14,15")
    parser.add_argument("--engines", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--spread", type=float, default=0.0, help="of a window's work around 1")
    parser.add_argument("--max-windows", type=int, help="a fixed limit instead of auto")
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"])
    parser.add_argument("--plot", type=Path, metavar="FILE")
    asked = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, flush=True)

    world = World(gpus=("h200",) * asked.engines, seconds=asked.seconds, spread=asked.spread)
    world = replace(world, warmup_s=min(world.warmup_s, asked.seconds / 3))
    if asked.max_windows is not None:
        world = replace(world, settings=replace(world.settings, max_windows=asked.max_windows))
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    if asked.scenario is not None:
        for name, scenario in SCENARIOS.items():
            if asked.scenario in (name, "all"):
                say(f"{name}: {scenario.__doc__}")
                scenario(replace(world, seed=seeds[0]), say)
        return 0
    if asked.plot is not None:
        plot(world, [*DIRECT, "least-loaded"], asked.plot)
        return 0
    ways = asked.ways.split(",")
    results = table(world, ways, [float(load) for load in asked.loads.split(",")], seeds, say)
    if not {"round robin", "fewest requests", "least-loaded"} <= set(ways):
        return 0
    say("")
    return 0 if bars(results, seeds, say) else 1


if __name__ == "__main__":
    sys.exit(main())
