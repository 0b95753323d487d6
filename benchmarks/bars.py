"""What the balancer promises, world by world, against its rivals: ratios of the means over seeds.

    python -m benchmarks.bars                       # every world, seeds 1 and 2
    python -m benchmarks.bars h200-one --seeds 1,2,3

Promised in every world: the p99 of short uploads is at most 1.25 times the oracle's and no worse
than with fewest requests; files over 30 minutes are no later than with round robin. A figure over
its bar is marked with `!`. Exits with 1 if there is one. Worlds of faults, in which rivals lose
uploads, are left out unless they are named.
"""

import argparse
import math
import sys

from benchmarks.worlds import FOLDER, OURS, mean, read

RIVALS = ("oracle", "fewest requests", "round robin")
#: By figure (see `Result.figures`) and rival: the most that a ratio may be; None: shown only.
BARS = (
    ("short p50", 0, "fewest requests", None),
    ("short p99", 1, "fewest requests", 1.0),
    ("short p99", 1, "oracle", 1.25),
    ("1 to 10 min p50", 2, "fewest requests", None),
    ("over 30 min p50", 3, "round robin", 1.0),
)


def main(argv: list[str] | None = None) -> int:
    """Print a row for each world and load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", default="1,2")
    asked = parser.parse_args(argv)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    heads = [f"{name} / {rival}" for name, _, rival, _ in BARS]
    print("| world | load | " + " | ".join(heads) + " |")
    print("| --- | --- |" + " --- |" * len(heads))
    misses = 0
    for path in sorted(FOLDER.glob("*.yaml")):
        world = read(path)
        has_faults = any("fault" in event or "poison" in event for event in world.events)
        if path.stem not in asked.names if asked.names else has_faults:
            continue
        for load in world.loads:
            ours, _, _ = mean(world, OURS, load, seeds)
            theirs = {rival: mean(world, rival, load, seeds)[0] for rival in RIVALS}
            cells = []
            for _, figure, rival, most in BARS:
                ratio = ours[figure] / theirs[rival][figure]
                is_missed = most is not None and ratio > most
                misses += is_missed
                cells.append("" if math.isnan(ratio) else f"{ratio:.2f}{'!' * is_missed}")
            print(f"| {world.name} | {load:.0%} | " + " | ".join(cells) + " |", flush=True)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
