"""`python -m benchmarks.chaos MINUTES`: faults of every kind under load; see `scripts/chaos`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from benchmarks.chaos.client import Client
from benchmarks.chaos.faults import Chaos
from benchmarks.chaos.judge import Kind, judge
from benchmarks.chaos.report import Report
from benchmarks.chaos.stage import Stage
from benchmarks.chaos.uploads import Requests

#: A whole upload may meet two hung engines of 10 s, and wait in the queue between. A piece of long
#: audio is tried anew for half a minute on top.
_DEADLINE_S = 150.0
_LONG_DEADLINE_S = 400.0
#: Connections to engines are kept for 4 s and probes come each second.
_SETTLE_S = 8.0
#: An engine that has been taken out again and again stays out twice as long each time.
_READY_AGAIN_S = 150.0
#: What a router may hold open when nobody asks for anything.
_FILES_AT_REST = 64
_ODD = re.compile(r"a fault of the router|Traceback|never retrieved|never awaited|ResourceWarning")


def main() -> int:
    """Run the chaos and return 1 if a promise was broken."""
    options = _options()
    # Stopped from outside, everything is taken down too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        stage = Stage(Path(name))
        try:
            stage.set_up()
            figures = uvloop.run(_run(stage, options))
        finally:
            stage.tear_down()
        if options.keep_logs is not None:
            options.keep_logs.mkdir(parents=True, exist_ok=True)
            for log in stage.folder.glob("*.log"):
                (options.keep_logs / log.name).write_bytes(log.read_bytes())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not figures["is_kept"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("minutes", type=float, help="how long to load and to trouble")
    parser.add_argument("--requests", type=int, metavar="N", help="stop after so many")
    parser.add_argument("--clients", type=int, default=64, help="at a time (default 64)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-faults", action="store_true", help="load only")
    parser.add_argument("--json", type=Path, default=Path("build/chaos/report.json"))
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="copy all logs there")
    return parser.parse_args()


async def _run(stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    seed = random.randrange(2**32) if options.seed is None else options.seed
    rng = random.Random(seed)
    started = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {words}", flush=True)

    say(f"seed {seed}; {options.clients} clients, three routers, {len(stage.engines)} engines")
    for what, why in stage.lacks.items():
        say(f"NOT DONE HERE: {what}: {why}")
    report = Report()
    chaos = Chaos(stage, random.Random(rng.getrandbits(32)), say)
    requests = Requests(random.Random(rng.getrandbits(32)))
    stop = asyncio.Event()
    load_s = options.minutes * 60
    async with asyncio.TaskGroup() as group:
        if not options.no_faults:
            group.create_task(chaos.run(stop))
        group.create_task(_stop_after(load_s, stop))
        group.create_task(_tell(report, stop, say))
        async with asyncio.TaskGroup() as clients:
            for _ in range(options.clients):
                client = Client("127.0.0.1", stage.port)
                clients.create_task(
                    _ask(client, requests, report, chaos, stop, options.requests, say)
                )
        took_s = time.monotonic() - started
        stop.set()
    say("all is mended; looking for what was left behind")
    await asyncio.sleep(_SETTLE_S)
    leaks = chaos.broken + _left_behind(stage)
    early, foreign = _early_answers(stage)
    leaks += foreign
    waited_s = 0.0
    while (missing := _not_ready(stage)) and waited_s < _READY_AGAIN_S:
        await asyncio.sleep(2)
        waited_s += 2
    if not missing:
        say(f"every engine is ready again, {_SETTLE_S + waited_s:.0f} s later")
    leaks += missing
    figures = {
        "seed": seed,
        "seconds": round(took_s, 1),
        "requests_per_s": round(report.total / took_s, 1),
        "faults": dict(sorted(chaos.done.items())),
        "early_answers": early,
        "not_done": stage.lacks,
        "left_behind": leaks,
        **report.to_json(),
    }
    figures["is_kept"] = not report.kinds[Kind.BROKEN] and not leaks
    _print(report, figures)
    return figures


async def _stop_after(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        stop.set()


async def _tell(report: Report, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    while not stop.is_set():
        try:
            async with asyncio.timeout(10):
                await stop.wait()
        except TimeoutError:
            pass
        counts = ", ".join(f"{count:,} {kind.value}" for kind, count in report.kinds.items())
        say(f"{report.total:,} requests: {counts}")


async def _ask(
    client: Client,
    requests: Requests,
    report: Report,
    chaos: Chaos,
    stop: asyncio.Event,
    most: int | None,
    say: Callable[[str], None],
) -> None:
    while not stop.is_set():
        request = requests.next()
        if most is not None and request.number >= most:
            stop.set()
            break
        reply = await client.ask(
            request, _LONG_DEADLINE_S if request.kind == "long" else _DEADLINE_S
        )
        if not reply.is_whole and not reply.has_left:
            # The note of a kill must be there before it is judged by.
            await asyncio.sleep(0.1)
        verdict = judge(request, reply, chaos.kills)
        if verdict.kind is Kind.BROKEN:
            say(f"  VIOLATION c{request.number} ({request.kind}): {verdict.why}")
        report.add(
            request, verdict, reply.ended_at - reply.started_at, reply.headers.get("x-router", "-")
        )
        if verdict.kind is Kind.REFUSED and reply.status == 503:
            # An SDK waits before it asks again.
            await asyncio.sleep(0.2)
    client.close()


def _not_ready(stage: Stage) -> list[str]:
    """Return the routers to which not every engine is ready."""
    out = []
    for router, url in zip(stage.routers, stage.router_urls, strict=True):
        ready = _metrics(url).count('state="ready"} 1')
        if ready != len(stage.engines):
            out.append(f"{router.name}: {ready} of {len(stage.engines)} engines are ready")
    return out


def _metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def _left_behind(stage: Stage) -> list[str]:
    """Return what the routers still hold that belongs to requests, and what they complained of."""
    out = []
    for router, url in zip(stage.routers, stage.router_urls, strict=True):
        text = _metrics(url)
        for name in (
            "open_uploads",
            "in_flight",
            "windows_in_flight",
            "spool_bytes",
            "queue_requests",
        ):
            lines = re.findall(rf"^vllm_router_{name}(?:{{.*}})? .*$", text, re.MULTILINE)
            out += [f"{router.name}: {line}" for line in lines if float(line.split()[-1])]
        # HAProxy keeps its connections for the next request.
        files = _value(text, "process_open_fds") - _value(text, "vllm_router_connections")
        if files > _FILES_AT_REST:
            out.append(f"{router.name}: {files:.0f} files open besides connections")
        lines = router.log.read_text(errors="replace").splitlines()
        out += [f"{router.name}: logged: {line[:200]}" for line in lines if _ODD.search(line)]
    return out[:50]


def _early_answers(stage: Stage) -> tuple[dict[str, int], list[str]]:
    """Return how uploads fared that engines answered early, and which held foreign bytes."""
    counts: Counter[str] = Counter()
    foreign = []
    for engine in stage.engines:
        for line in engine.log.read_text(errors="replace").splitlines():
            if line.startswith("early "):
                counts[line.split()[1] + ": " + line.rpartition(" bytes of ")[2].split()[1]] += 1
                foreign += [f"{engine.name}: {line[:300]}"] if "FOREIGN" in line else []
    return dict(sorted(counts.items())), foreign


def _value(exposition: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", exposition, re.MULTILINE)
    return float(found[1]) if found is not None else 0.0


def _print(report: Report, figures: dict[str, Any]) -> None:
    print(f"\n{report.table()}\n")
    print("| fault | times |\n| --- | --- |")
    for name, times in figures["faults"].items():
        print(f"| {name} | {times} |")
    print(
        f"\n{figures['requests']:,} requests in {figures['seconds']:.0f} s "
        f"({figures['requests_per_s']:.0f} per second); seconds until a right answer: "
        f"{figures['seconds_to_answer']}"
    )
    print(f"answered early by engines: {figures['early_answers']}")
    for line in report.examples:
        print(f"VIOLATION {line}")
    for line in figures["left_behind"]:
        print(f"LEFT BEHIND {line}")
    print("every request is accounted for" if figures["is_kept"] else "PROMISES WERE BROKEN")


if __name__ == "__main__":
    if (
        subprocess.run(["which", "haproxy"], capture_output=True).returncode
        and not Path("/usr/sbin/haproxy").exists()
    ):
        sys.exit("scripts/chaos needs HAProxy; run it as root to have it installed")
    sys.exit(main())
