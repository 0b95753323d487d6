"""`scripts/bench`: the same uploads through the router and its peers, side by side in one run.

Machines differ and are noisy: figures of different runs are not comparable, and only ratios within
a run mean anything. So all proxies run at the same time, take turns in short rounds, and the median
counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.proxies.contenders import CONTENDERS, DIRECT, ROUTER, Target
from benchmarks.proxies.load import Speed, memory, speed
from benchmarks.proxies.processes import build_engine, engines
from benchmarks.proxies.report import summary, write
from benchmarks.proxies.scaling import idle, with_connections, with_engines
from benchmarks.proxies.uploads import Upload, write_upload
from benchmarks.proxies.workers import compare, dear

from vllm_router.app.compiled import how_it_runs

SMALL_BYTES, MEDIUM_BYTES, LARGE_BYTES = 96 * 1024, 1_270_000, 25_000_000
#: What costs a proxy something is bytes, so the rates are high. At 16 kHz, 1.27 MB would last 40 s
#: and 25 MB 13 minutes: the router would decode and cut them. At these rates the first lasts 3.3 s,
#: as long as the engine's answer takes to say, and the second 16 s.
MEDIUM_RATE_HZ, LARGE_RATE_HZ = 192_000, 768_000
#: Words enough for 16 s: for fewer the router would decode the upload to see whether some are lost.
LARGE_ANSWER = {
    "text": "And so, my fellow Americans, ask not what your country can do for you. Ask what you "
    "can do for your country. My fellow citizens of the world, ask not what America will do for "
    "you, but what together we can do for the freedom of man.",
    "usage": {"type": "duration", "seconds": 17},
}
AT_ONCE = 64
#: Connections at which workers share the work: few, as a proxy in front keeps, and many.
WORKERS_AT = (4, 8, 32)
SLOW_BYTES_PER_S = 1_000_000
#: What the quick run compares with, so that it stays quick.
QUICK_PEERS = "haproxy,unbuffered,smg,fastapi"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    out = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    out.add_argument("--quick", action="store_true", help="under a minute, for CI")
    out.add_argument("--speed", action="store_true", help="only CPU, rate and latency")
    out.add_argument("--memory", action="store_true", help="only memory")
    out.add_argument("--scaling", action="store_true", help="only growth with connections, engines")
    out.add_argument("--workers", action="store_true", help="only what two workers carry")
    out.add_argument("--only", default="", help="peers, by parts of their names: haproxy,unbuff")
    out.add_argument("--sizes", default="96 KB,1.27 MB", help="of: 96 KB,1.27 MB")
    out.add_argument("--connections", default="1,32", help="uploads at a time")
    out.add_argument("--rounds", type=int, help="rounds per case (7; quick: 1)")
    out.add_argument("--seconds", type=int, help="seconds per round (2; quick: 1)")
    out.add_argument("--fields-first", action="store_true", help="forms as SDKs write them")
    out.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results")
    return out


def chosen(only: str) -> list[str]:
    """Return the names of the contenders asked for; the router is always one."""
    words = [word.strip().lower() for word in only.split(",") if word.strip()]
    return [
        name
        for name in CONTENDERS
        if not words or name == ROUTER or any(word in name.lower() for word in words)
    ]


def measure_speed(
    folder: Path,
    binary: Path,
    names: list[str],
    cases: list[tuple[Upload, int]],
    rounds: int,
    seconds: int,
) -> dict[str, Any]:
    """Return the figures by case and contender."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        urls = stack.enter_context(engines(binary, 2))
        targets: dict[str, Target] = {
            name: stack.enter_context(CONTENDERS[name](folder, urls)) for name in names
        }
        for upload, connections in cases:
            case = f"{upload.name}, {connections} at a time"
            taken: dict[str, list[Speed]] = {name: [] for name in names}
            # The first round warms up: connections to engines, memory, branch predictors.
            for at in range(rounds + 1):
                for name, target in targets.items():
                    taken[name].append(speed(target, upload, connections, seconds if at else 1))
            found[case] = {name: summary(speeds[1:]) for name, speeds in taken.items()}
            say(f"measured: {case}")
    return found


def measure_memory(
    folder: Path, binary: Path, names: list[str], *, with_slow: bool
) -> dict[str, Any]:
    """Return memory by case and contender; each proxy is started anew for each case."""
    upload = write_upload(folder, "25 MB", LARGE_BYTES, LARGE_RATE_HZ)
    answer = folder / "large-answer.json"
    answer.write_text(json.dumps(LARGE_ANSWER))
    found: dict[str, Any] = {}
    for rate in (0, SLOW_BYTES_PER_S) if with_slow else (0,):
        case = f"{AT_ONCE} × 25 MB" + (", engines read 1 MB/s" if rate else "")
        found[case] = {}
        for name in names:
            with (
                engines(binary, 2, rate, answer=answer) as urls,
                CONTENDERS[name](folder, urls) as target,
            ):
                if target.pid is not None:
                    # What the first upload alone makes a process load is no growth by uploads.
                    memory(target, upload, 1)
                    taken = memory(target, upload, AT_ONCE)
                    found[case][name] = {key: getattr(taken, key) for key in taken.__slots__}
        say(f"measured: {case}")
    return found


def say(words: str) -> None:
    """Tell who waits how far it is."""
    print(f"bench: {words}", file=sys.stderr, flush=True)


def main() -> int:
    """Run what was asked for."""
    args = parser().parse_args()
    parts = ("speed", "memory", "scaling", "workers")
    asked = {part for part in parts if getattr(args, part)}
    asked = asked or ({"speed"} if args.quick else set(parts))
    rounds = args.rounds or (1 if args.quick else 7)
    seconds = args.seconds or (1 if args.quick else 2)
    names = chosen(args.only or (QUICK_PEERS if args.quick else ""))
    args.out.mkdir(parents=True, exist_ok=True)
    say(f"the router runs {how_it_runs()}")
    found: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release()},
        "at": time.strftime("%Y-%m-%d"),
        "router": how_it_runs(),
        "rounds": rounds,
        "seconds": seconds,
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        # nginx gives its worker's rights up; it must still reach its temporary files.
        folder.chmod(0o755)
        binary = build_engine(folder)
        small, medium = (
            write_upload(folder, label, size, rate_hz, is_file_first=not args.fields_first)
            for label, size, rate_hz in (
                ("96 KB", SMALL_BYTES, 16_000),
                ("1.27 MB", MEDIUM_BYTES, MEDIUM_RATE_HZ),
            )
        )
        if "speed" in asked:
            sizes = [size.strip() for size in args.sizes.split(",")]
            cases = [
                (upload, int(connections))
                for upload in (small, medium)
                if upload.name in sizes
                for connections in args.connections.split(",")
            ]
            found["speed"] = measure_speed(folder, binary, names, cases, rounds, seconds)
        if "memory" in asked:
            proxies = [name for name in names if name != DIRECT]
            found["memory"] = measure_memory(folder, binary, proxies, with_slow=not args.quick)
        if "scaling" in asked:
            found["scaling"] = {
                "compared": [
                    with_connections(folder, binary, small, 10_000, rounds, seconds),
                    with_engines(folder, binary, small, 1000, rounds, seconds),
                ],
                "idle": idle(folder, binary, 1000, 5.0 if args.quick else 20.0),
            }
        if "workers" in asked:
            found["workers"] = {
                "shared": compare(folder, binary, small, WORKERS_AT, rounds, seconds),
                "dear": dear(folder, binary, rounds, seconds),
            }
    print(write(found, args.out))
    _verdict(found)
    say(f"bench.json, bench.md and bench.svg are in {args.out}")
    return 0


def _verdict(found: dict[str, Any]) -> None:
    """Print the router's cost beside that of each peer."""
    for case, by_name in found.get("speed", {}).items():
        own = by_name[ROUTER]["cpu_ms"]
        others = (
            f"{each['cpu_ms'] / own:.2f} × in {name}"
            for name, each in by_name.items()
            if each["cpu_ms"] and name != ROUTER
        )
        print(f"{case}: {own:.3f} ms of CPU; of that, {'; '.join(others)}")


if __name__ == "__main__":
    sys.exit(main())
