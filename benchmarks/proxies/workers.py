"""What two workers carry beside one: `--workers`.

On a machine with few cores the load and the engines take from the same cores as the workers, and
busy neighbours from all, so the rate of two workers by that of one says more about the machine than
about the router. So two workers are compared with two routers of one worker each, which share
nothing, under the same load at the same time of day: what cores are there, those have too. Each of
them, and the workers too, is sent its uploads from two cores by turns: a load that only ever talks
to one router ends up on that one's core and finds its bytes in the cache there, which is worth a
tenth, and which workers behind one address cannot have. Told are

- the rate of the workers by that of the routers, times two: what two workers carry beside one;
- the CPU per upload of both;
- the busier worker's part of the CPU: few connections must not all fall to one worker.

And, for uploads that cost the router much and the load little (subtitles of a long answer), the
plain rates of one worker and of two, with the cores that the scheduler gave them.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.proxies.contenders import Target, router
from benchmarks.proxies.load import Speed, speed
from benchmarks.proxies.processes import cpu_s, engines, tree
from benchmarks.proxies.uploads import Upload, write_upload

WORKERS = 2
#: Segments of the long answer: some milliseconds of work to make subtitles of.
SEGMENTS = 60


def workers_of(target: Target) -> list[int]:
    """Return the processes that answer, the parent's two helpers and decoders left out."""
    assert target.pid is not None
    found = []
    for pid in tree(target.pid)[1:]:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if b"spawn_main" in command and parent == target.pid:
            found.append(pid)
    return found


def _together(targets: list[Target], upload: Upload, connections: int, seconds: int) -> list[Speed]:
    """Load targets at the same time, from two cores each, over so many connections in all."""
    cores = sorted(os.sched_getaffinity(0))
    loads = [(target, cores[number % len(cores)]) for target in targets for number in range(2)]
    with ThreadPoolExecutor(len(loads)) as pool:
        futures = [
            pool.submit(speed, target, upload, connections // len(loads), seconds, core)
            for target, core in loads
        ]
        return [future.result() for future in futures]


def compare(
    folder: Path,
    binary: Path,
    upload: Upload,
    connections: tuple[int, ...],
    rounds: int,
    seconds: int,
) -> list[dict[str, Any]]:
    """Return what two workers carry beside two routers, by open connections."""
    with (
        engines(binary, 2) as urls,
        router(folder, urls) as one,
        router(folder, urls) as other,
        router(folder, urls, "--workers", str(WORKERS)) as both,
    ):
        for target in (one, other, both):
            speed(target, upload, max(connections), 2)
        return [
            _compared(one, other, both, upload, count, rounds, seconds) for count in connections
        ]


def _compared(
    one: Target,
    other: Target,
    both: Target,
    upload: Upload,
    connections: int,
    rounds: int,
    seconds: int,
) -> dict[str, Any]:
    rates: list[float] = []
    costs: list[tuple[float, float]] = []
    parts: list[float] = []
    failed = 0
    assert one.pid is not None
    assert other.pid is not None
    routers = [one.pid, other.pid]
    # Each round connects anew: its connections fall to the workers in another way.
    for _ in range(rounds):
        cpu_apart, apart = _measured([one, other], routers, upload, connections, seconds)
        cpu, shared = _measured([both, both], workers_of(both), upload, connections, seconds)
        rates.append(sum(s.per_s for s in shared) / sum(s.per_s for s in apart))
        costs.append((_cost_ms(cpu_apart, apart), _cost_ms(cpu, shared)))
        parts.append(max(cpu) / sum(cpu))
        failed += sum(s.failed for s in (*apart, *shared))
    return {
        "connections": connections,
        "cpu_ms_apart": median(each for each, _ in costs),
        "cpu_ms_shared": median(each for _, each in costs),
        "busier": median(parts),
        "busier_worst": max(parts),
        "carry": WORKERS * median(rates),
        "failed": failed,
    }


def _measured(
    targets: list[Target], pids: list[int], upload: Upload, connections: int, seconds: int
) -> tuple[list[float], list[Speed]]:
    """Return the CPU seconds that processes took for a load, and what came of it."""
    before = [cpu_s(pid) for pid in pids]
    speeds = _together(targets, upload, connections, seconds)
    return [cpu_s(pid) - since for pid, since in zip(pids, before, strict=True)], speeds


def _cost_ms(cpu: list[float], speeds: list[Speed]) -> float:
    """Return the CPU per upload of several processes together."""
    return sum(cpu) * 1000 / sum(s.requests for s in speeds)


def dear(folder: Path, binary: Path, rounds: int, seconds: int) -> dict[str, Any]:
    """Return the rates of one and two workers for uploads that cost the router much."""
    answer = folder / "long-answer.json"
    answer.write_text(json.dumps(_long_answer()))
    upload = write_upload(folder, "subtitles", 96 * 1024, 4_000, answer_format="srt")
    rates: dict[int, list[float]] = {1: [], WORKERS: []}
    costs: dict[int, list[float]] = {1: [], WORKERS: []}
    failed = 0
    with (
        engines(binary, 2, answer=answer) as urls,
        # Decoding has processes of its own, whichever worker asks.
        router(folder, urls, "--split", "off") as one,
        router(folder, urls, "--split", "off", "--workers", str(WORKERS)) as many,
    ):
        for number in range(rounds + 1):
            for count, target in ((1, one), (WORKERS, many)):
                taken = speed(target, upload, 8, seconds)
                if number:
                    rates[count].append(taken.per_s)
                    costs[count].append(taken.cpu_ms or 0.0)
                    failed += taken.failed
    per_s = {count: median(each) for count, each in rates.items()}
    return {
        "per_s_one": per_s[1],
        "per_s_many": per_s[WORKERS],
        "cpu_ms_one": median(costs[1]),
        "cpu_ms_many": median(costs[WORKERS]),
        "cores_one": per_s[1] * median(costs[1]) / 1000,
        "cores_many": per_s[WORKERS] * median(costs[WORKERS]) / 1000,
        "ratio": per_s[WORKERS] / per_s[1],
        "failed": failed,
    }


def _long_answer() -> dict[str, Any]:
    step_s = 12.0 / SEGMENTS
    segments = [
        {
            "id": number,
            "seek": 0,
            "start": round(number * step_s, 3),
            "end": round((number + 1) * step_s, 3),
            "text": " And so, my fellow Americans,",
            "tokens": [50364, 400, 370, 11],
            "temperature": 0.0,
            "avg_logprob": -0.2,
            "compression_ratio": 1.1,
            "no_speech_prob": 0.01,
        }
        for number in range(SEGMENTS)
    ]
    text = "".join(segment["text"] for segment in segments)
    return {"duration": "12.0", "language": "en", "text": text, "segments": segments, "words": None}
