"""`python -m benchmarks.soak MINUTES`: does a router grow under steady load? See `scripts/soak`.

One router with its defaults before simulated engines gets 70 % of the load that it was just
measured to carry, mixed as in the chaos, at random moments. Engines answer some large uploads
before they have read them; every few seconds one is stopped while it works, or there is nonsense in
a file or in what an engine reports. The router's memory and open files are read every second; after
a warm-up a straight line through them tells how fast they grow. Open files go up and down with the
connections, so those at rest are compared too, before and after. Every answer is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from benchmarks.chaos.client import Client
from benchmarks.chaos.faults import order, until_at_work
from benchmarks.chaos.judge import Kind, judge
from benchmarks.chaos.nonsense import METRICS, MODELS, Sources, has_label, takes_key
from benchmarks.chaos.report import Report
from benchmarks.chaos.stage import quiet_port
from benchmarks.chaos.uploads import MODEL, Requests
from benchmarks.proxies.processes import await_answer, running, tree

ENGINES = 3
LOAD = 0.7
_CALIBRATE_S = 15.0
_CALIBRATE_CLIENTS = 48
_DEADLINE_S = 60.0
#: Arrivals that find so many under way are not sent: the load is 70 %, so the machine has stalled.
_MOST_UNDER_WAY = 400
#: Pools and histograms fill up in this part of the run, which is not looked at.
_WARM_UP = 0.3
#: Stretches of the run; in one of half a minute and more, bursts and what they free even out.
_BLOCKS = 10
#: Growth that would be 90 MB a day; what is below it cannot be told from noise in half an hour.
MAX_MEMORY_KB_PER_MIN = 64.0
#: Open files at rest, after the load more than before it: what is started when first needed.
MAX_FILES_LEFT = 8
#: Connections to engines are kept for 4 s, and a decoder is kept for good.
_REST_S = 10.0
#: Part of the uploads of 100 KB and more that engines answer before they have read them.
_EARLY_SHARE = 0.02
#: Between two troubles, and how long a stopped engine stays so: its work waits, and is not moved.
_TROUBLE_S = 3.0
_STOPPED_S = 2.0
#: How soon an edit must be followed.
_FOLLOWED_S = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A router at one moment.

    Attributes:
        at_s: Since the load began.
        memory_kb: Resident memory of the router's own process that is not files.
        all_kb: The same with its decoders.
        files: Open files of its own process.
    """

    at_s: float
    memory_kb: float
    all_kb: float
    files: float


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples.

    Attributes:
        per_min: How fast it rises.
        error: Standard error of that.
        start: The line's value where it begins.
        end: And where it ends.
    """

    per_min: float
    error: float
    start: float
    end: float

    def is_flat(self, most_per_min: float) -> bool:
        """Return whether it does not surely rise faster than that."""
        return self.per_min - 2 * self.error <= most_per_min


def fitted(at_s: list[float], values: list[float]) -> Slope:
    """Return the least-squares line through the means of `_BLOCKS` stretches.

    Neighbouring seconds are alike, and as so many measurements would make the error too small.
    """
    x = np.array([part.mean() for part in np.array_split(np.asarray(at_s) / 60, _BLOCKS)])
    y = np.array([part.mean() for part in np.array_split(np.asarray(values), _BLOCKS)])
    (slope, start), covariance = np.polyfit(x - x[0], y, 1, cov=True)
    end = start + slope * (x[-1] - x[0])
    return Slope(float(slope), float(covariance[0, 0] ** 0.5), float(start), float(end))


def main() -> int:
    """Soak, print the slopes, and return 1 if something grows or was answered wrongly."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("build/soak/report.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        figures = uvloop.run(_soak(Path(name), options.minutes * 60, options.seed))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not figures["is_flat"])


async def _soak(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    ports = [quiet_port() for _ in range(ENGINES + 1)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    engines = [
        [
            sys.executable, "-m", "benchmarks.chaos.engine", "--port", str(port),
            "--served-model-name", MODEL, "--time-scale", "20", "--early-share", str(_EARLY_SHARE),
        ]
        for port in ports[1:]
    ]  # fmt: skip
    sources = Sources(folder / "sources", urls[1:], random.Random(seed))
    router = [
        sys.executable, "-m", "vllm_router.app", "--host", "127.0.0.1", "--port", str(ports[0]),
        "--service-discovery", "file", "--discovery-file", str(sources.engines),
        "--api-key-file", str(sources.keys),
        # As in the chaos: what speaks is noise, and the engines' words are made up.
        "--vad", "level", "--no-verify", "--split-longer-than-s", "60",
    ]  # fmt: skip
    log = folder / "router.log"
    broken: list[str] = []
    with (
        running(engines[0], folder / "engine0.log") as engine,
        running(engines[1], folder / "engine1.log"),
        running(engines[2], folder / "engine2.log"),
        running(router, log) as process,
    ):
        await asyncio.to_thread(await_answer, f"{urls[0]}/ready", process, log)
        requests = Requests(random.Random(seed))
        report = Report()
        per_s = await _carried(ports[0], requests, report)
        # What is given back to the pools of memory is kept: fill them first, or each burst of the
        # load that is larger than all before looks like growth.
        await _carried(ports[0], Requests(random.Random(seed + 1), long_share=1.0), report)
        await asyncio.sleep(_REST_S)
        at_rest = _sample(process.pid, 0.0).files
        print(f"carries {per_s:.0f} requests per second; {LOAD:.0%} of it for {seconds / 60:g} min")
        trouble = asyncio.create_task(_trouble(sources, urls, engine, random.Random(seed)))
        samples = await _load(ports[0], requests, report, per_s * LOAD, seconds, process.pid, seed)
        trouble.cancel()
        # What it ended with is told: an edit that was not followed.
        for failed in await asyncio.gather(trouble, return_exceptions=True):
            broken += [] if isinstance(failed, asyncio.CancelledError) else [repr(failed)]
        order(urls[1], {})
        order(urls[1], {}, "models")
        await asyncio.sleep(_REST_S)
        left = _sample(process.pid, 0.0).files - at_rest
    for number in range(ENGINES):
        text = (folder / f"engine{number}.log").read_text(errors="replace")
        broken += [line[:300] for line in text.splitlines() if "FOREIGN" in line]
    return _figures(report, samples, left, per_s, seconds, broken)


async def _trouble(
    sources: Sources, urls: list[str], engine: subprocess.Popen[bytes], rng: random.Random
) -> None:
    """Bring the trouble that a router must not even notice, one at a time, until cancelled.

    Args:
        sources: The router's files.
        urls: The router's, then the engines'.
        engine: The first engine.
        rng: Chooses.

    Raises:
        TimeoutError: The router does not follow an edit that mends one of its files.
    """

    async def followed(claim: Callable[[str, str], bool], token: str) -> None:
        async with asyncio.timeout(_FOLLOWED_S):
            while not await asyncio.to_thread(claim, urls[0], token):  # noqa: ASYNC110
                await asyncio.sleep(0.5)

    try:
        while True:
            for kind in ("engines", "keys", "metrics", "models", "stop"):
                await asyncio.sleep(_TROUBLE_S)
                match kind:
                    case "engines":
                        sources.spoil_engines()
                        await asyncio.sleep(2)
                        await followed(has_label, sources.mend_engines())
                    case "keys":
                        sources.spoil_keys()
                        await asyncio.sleep(2)
                        await followed(takes_key, sources.mend_keys())
                    case "metrics":
                        faults = {"metrics": rng.choice(METRICS)}
                        await asyncio.to_thread(order, urls[1], faults)
                    case "models":
                        await asyncio.to_thread(order, urls[1], {})
                        body = {"body": rng.choice(MODELS)}
                        await asyncio.to_thread(order, urls[1], body, "models")
                    case "stop":
                        await asyncio.to_thread(order, urls[1], {}, "models")
                        await until_at_work(urls[1])
                        engine.send_signal(signal.SIGSTOP)
                        await asyncio.sleep(_STOPPED_S)
                        engine.send_signal(signal.SIGCONT)
    finally:
        engine.send_signal(signal.SIGCONT)


async def _carried(port: int, requests: Requests, report: Report) -> float:
    """Return how many requests a second are answered when clients ask without pause."""
    until = time.monotonic() + _CALIBRATE_S
    before = report.total

    async def ask() -> None:
        client = Client("127.0.0.1", port)
        while time.monotonic() < until:
            await _one(client, requests, report)
        client.close()

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CALIBRATE_CLIENTS):
            group.create_task(ask())
    return (report.total - before) / (time.monotonic() - started)


async def _one(client: Client, requests: Requests, report: Report) -> None:
    request = requests.next()
    reply = await client.ask(request, _DEADLINE_S)
    verdict = judge(request, reply, ())
    report.add(request, verdict, reply.ended_at - reply.started_at, "-")


async def _load(
    port: int,
    requests: Requests,
    report: Report,
    per_s: float,
    seconds: float,
    pid: int,
    seed: int,
) -> list[Sample]:
    rng = random.Random(seed)
    idle: list[Client] = []
    under_way: set[asyncio.Task[None]] = set()
    samples: list[Sample] = []

    async def ask() -> None:
        client = idle.pop() if idle else Client("127.0.0.1", port)
        await _one(client, requests, report)
        idle.append(client)

    loop = asyncio.get_running_loop()
    started = next_at = loop.time()
    sample_at = started
    while loop.time() - started < seconds:
        await asyncio.sleep(max(0.0, next_at - loop.time()))
        next_at = max(next_at, loop.time() - 1) + rng.expovariate(per_s)
        if len(under_way) < _MOST_UNDER_WAY:
            task = loop.create_task(ask())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if loop.time() >= sample_at:
            sample_at += 1
            samples.append(_sample(pid, loop.time() - started))
            if len(samples) % 30 == 0:
                last = samples[-1]
                print(
                    f"{last.at_s:6.0f} s  {last.memory_kb / 1024:6.1f} MB, {last.files:.0f} files, "
                    f"{report.total:,} requests",
                    flush=True,
                )
    await asyncio.gather(*under_way)
    for client in idle:
        client.close()
    return samples


def _sample(pid: int, at_s: float) -> Sample:
    family = tree(pid)
    sizes = [_anonymous_kb(each) for each in family]
    return Sample(at_s, sizes[0], sum(sizes), len(os.listdir(f"/proc/{pid}/fd")))


def _anonymous_kb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return sum(
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("RssAnon:", "RssShmem:"))
    )


def _figures(
    report: Report,
    samples: list[Sample],
    files_left: float,
    per_s: float,
    seconds: float,
    violations: list[str],
) -> dict[str, Any]:
    warm = [sample for sample in samples if sample.at_s > _WARM_UP * seconds]
    at_s = [sample.at_s for sample in warm]
    memory = fitted(at_s, [sample.memory_kb for sample in warm])
    everything = fitted(at_s, [sample.all_kb for sample in warm])
    files = fitted(at_s, [sample.files for sample in warm])
    broken = report.kinds[Kind.BROKEN]
    is_flat = (
        memory.is_flat(MAX_MEMORY_KB_PER_MIN)
        and files_left <= MAX_FILES_LEFT
        and not broken
        and not violations
    )
    print(f"\n{report.table()}\n")
    print("| over the last 70 % | begins | ends | slope per minute | allowed |")
    print("| --- | --- | --- | --- | --- |")
    for name, slope, allowed in (
        ("memory, the router (KB)", memory, f"{MAX_MEMORY_KB_PER_MIN:g}"),
        ("memory, with its decoders (KB)", everything, ""),
        ("open files", files, ""),
    ):
        print(
            f"| {name} | {slope.start:,.0f} | {slope.end:,.0f} | "
            f"{slope.per_min:+.2f} ± {slope.error:.2f} | {allowed} |"
        )
    print(f"\nopen files at rest: {files_left:+.0f} after the load ({MAX_FILES_LEFT} allowed)")
    for line in [*report.examples, *violations]:
        print(f"VIOLATION {line}")
    print("flat" if is_flat else "NOT FLAT, OR ANSWERED WRONGLY")
    return {
        "seconds": seconds,
        "carried_per_s": round(per_s, 1),
        "load": LOAD,
        "memory_kb_per_min": memory.per_min,
        "memory_kb_per_min_error": memory.error,
        "memory_with_decoders_kb_per_min": everything.per_min,
        "files_per_min": files.per_min,
        "files_per_min_error": files.error,
        "files_left": files_left,
        "samples": [(s.at_s, s.memory_kb, s.all_kb, s.files) for s in samples],
        "trouble_violations": violations,
        "is_flat": is_flat,
        **report.to_json(),
    }


if __name__ == "__main__":
    sys.exit(main())
