"""The real router before eight simulated engines, beside round robin and HAProxy's `leastconn`.

    python -m benchmarks.fleet                 # about six minutes
    python -m benchmarks.fleet --seconds 80    # the table of docs/balancing.md
    python -m benchmarks.fleet --quick         # two minutes: too few files to conclude from

Each contender has eight engines of its own (`python -m tests.fake_engine`, an H200's
curve). All run at the same time and get the same uploads at the same moments, so that whatever else
this machine does strikes all of them. Time is scaled: at 0.25 the engines are four times slower
than an H200, and everything is told in an H200's seconds. Round robin is HAProxy's, which costs
less than a proxy in Python would. The engines take audio of any length here, as the contenders that
cannot cut need; the uploads are real WAVs of speech at 4 kHz, and the router decodes and cuts them.

Linux only; needs HAProxy.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import numpy as np
import uvloop
from benchmarks.fleet_report import (
    LEAST,
    OURS,
    ROBIN,
    Contender,
    Upload,
    plot,
    quantile,
    report,
    verdict,
)
from benchmarks.long import ROOT, speech
from benchmarks.mix import arrivals, mean_windows
from benchmarks.proxies.contenders import router
from benchmarks.proxies.processes import await_answer, cpu_s, free_port, running
from benchmarks.world import GPUS

from vllm_router.scheduling.work import windows_of

PEAK_PER_S = GPUS["h200"][0]
RATE_HZ = 4000
BLOCK = 256 * 1024
BOUNDARY = "benchmark-boundary"
DRAIN_S = 60.0


def uploads(load: float, engines: int, seconds: float, seed: int) -> list[Upload]:
    """Return a run's uploads; their times are stretched so that their load is exactly `load`.

    A few files carry a third of the work: without this the luck of a seed would set the load.
    """
    per_s = load * engines * PEAK_PER_S / mean_windows()
    coming = [(r.at, r.audio_s) for r in arrivals(per_s, seconds, Random(seed), 0.0)]
    windows = sum(windows_of(audio_s) for _, audio_s in coming)
    stretch = windows / (load * engines * PEAK_PER_S) / seconds
    return [Upload(at * stretch, audio_s) for at, audio_s in coming]


def sound() -> bytes:
    """Return the longest upload's samples: speech, 8 bits."""
    ten_minutes = np.frombuffer(speech(600.0, RATE_HZ, 1), "<i2")
    return ((ten_minutes >> 8) + 128).astype("u1").tobytes() * 9


def form(samples: memoryview) -> tuple[bytes, bytes]:
    """Return what stands before and behind the samples of one upload, as HTTP."""
    size = len(samples)
    header = b"".join(
        (b"RIFF", (size + 36).to_bytes(4, "little"), b"WAVEfmt \x10\0\0\0\1\0\1\0",
         RATE_HZ.to_bytes(4, "little") * 2, b"\1\0\x08\0data", size.to_bytes(4, "little"))
    )  # fmt: skip
    before = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
        f"openai/whisper-small\r\n--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    ).encode() + header
    behind = f"\r\n--{BOUNDARY}--\r\n".encode()
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(before) + size + len(behind)}\r\n\r\n"
    ).encode()
    return head + before, behind


@contextlib.contextmanager
def engines(count: int, time_scale: float) -> Iterator[list[str]]:
    """Run simulated engines; yield their URLs."""
    command = [sys.executable, "-m", "tests.fake_engine", "--port", "0"]
    command += ["--time-scale", str(time_scale), "--max-audio-s", "10000"]
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
            started.append(process)
        yield [(process.stdout or sys.stdin.buffer).readline().decode().split()[-1]
               for process in started]  # fmt: skip


HAPROXY = """
global
  maxconn 4096
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option http-server-close
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend uploads
  bind 127.0.0.1:{port}
  default_backend engines
backend engines
  balance {balance}
{servers}
"""


@contextlib.contextmanager
def haproxy(folder: Path, urls: list[str], balance: str) -> Iterator[Contender]:
    """Run HAProxy before some engines."""
    port = free_port()
    servers = "\n".join(f"  server e{i} {url[7:]}" for i, url in enumerate(urls))
    config = folder / f"{balance}.cfg"
    config.write_text(HAPROXY.format(port=port, balance=balance, servers=servers))
    binary = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        raise SystemExit("benchmarks.fleet needs HAProxy: apt-get install haproxy")
    log = folder / f"{balance}.log"
    with running([binary, "-f", str(config)], log) as process:
        await_answer(f"http://127.0.0.1:{port}/health", process, log)
        yield Contender(f"http://127.0.0.1:{port}", process.pid)


async def post(contender: Contender, samples: memoryview) -> str:
    """Send one upload; return why it failed, or nothing."""
    port = int(contender.url.rpartition(":")[2])
    writer = None
    try:
        async with asyncio.timeout(3600):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            before, behind = form(samples)
            # A refusal may come before the whole upload is out: read it all the same.
            with contextlib.suppress(ConnectionError):
                writer.write(before)
                for at in range(0, len(samples), BLOCK):
                    writer.write(samples[at : at + BLOCK])
                    await writer.drain()
                writer.write(behind)
                await writer.drain()
            answer = await reader.read()
    except (OSError, TimeoutError) as error:
        return repr(error)
    finally:
        if writer is not None:
            writer.close()
    is_good = answer.startswith(b"HTTP/1.1 200") and b'"text"' in answer
    return "" if is_good else answer[:200].decode(errors="replace")


async def play(
    contenders: dict[str, Contender], coming: list[Upload], time_scale: float
) -> tuple[list[float], list[float]]:
    """Send all uploads to every contender at their times.

    Returns:
        How late each upload was sent, in simulated seconds, and the load averages on the way.
    """
    loop = asyncio.get_running_loop()
    samples = memoryview(sound())
    late: list[float] = []
    averages: list[float] = []
    start = loop.time() + 1.0

    def now() -> float:
        return (loop.time() - start) * time_scale

    async def one(contender: Contender, number: int, upload: Upload) -> None:
        began = now()
        error = await post(contender, samples[: int(upload.audio_s * RATE_HZ)])
        if error:
            contender.errors.append(error)
        else:
            contender.answered[number] = now() - began

    async def watch() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while True:
                averages.append(os.getloadavg()[0])
                with contextlib.suppress(httpx.HTTPError):
                    text = (await client.get(contenders[OURS].url + "/metrics")).text
                    waiting_s = total(text, "vllm_router_queue_audio_seconds")
                    contenders[OURS].queue.append((now(), waiting_s / 30.0))
                await asyncio.sleep(2.0)

    for contender in contenders.values():
        contender.answered = [None] * len(coming)
    watcher = asyncio.create_task(watch())
    tasks = []
    for number, upload in enumerate(coming):
        await asyncio.sleep(max(0.0, (upload.at - now()) / time_scale))
        late.append(now() - upload.at)
        tasks += [
            asyncio.create_task(one(contender, number, upload)) for contender in contenders.values()
        ]
    _, pending = await asyncio.wait(tasks, timeout=DRAIN_S / time_scale)
    for task in (*pending, watcher):
        task.cancel()
    await asyncio.gather(*pending, watcher, return_exceptions=True)
    return late, averages


def total(exposition: str, name: str) -> float:
    """Return the sum of a metric's series."""
    return sum(map(float, re.findall(rf"^{name}{{.*}} (\S+)$", exposition, re.MULTILINE)))


def main(argv: list[str] | None = None) -> int:
    """Run all contenders; 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--load", type=float, default=0.8, help="of the engines' peak")
    parser.add_argument("--engines", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=70.0, help="simulated; uploads come in")
    parser.add_argument("--warmup", type=float, default=20.0, help="simulated; not counted")
    parser.add_argument("--time-scale", type=float, default=0.25, help="simulated per real second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 simulated seconds, 6 of warm-up")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fleet")
    parser.add_argument("--router-flag", action="append", default=[], help="--router-flag=--x=y")
    asked = parser.parse_args(argv)
    if asked.quick:
        asked.seconds, asked.warmup = 20.0, 6.0
    coming = uploads(asked.load, asked.engines, asked.seconds, asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fleet-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        fleets = [stack.enter_context(engines(asked.engines, asked.time_scale)) for _ in range(3)]
        target = stack.enter_context(router(folder, fleets[0], *asked.router_flag))
        assert target.pid is not None
        contenders = {
            ROBIN: stack.enter_context(haproxy(folder, fleets[1], "roundrobin")),
            LEAST: stack.enter_context(haproxy(folder, fleets[2], "leastconn")),
            OURS: Contender(target.url, target.pid),
        }
        spent = {each: cpu_s(contender.pid) for each, contender in contenders.items()}
        late, averages = uvloop.run(play(contenders, coming, asked.time_scale))
        for each, contender in contenders.items():
            contender.cpu_s = cpu_s(contender.pid) - spent[each]
        metrics = httpx.get(contenders[OURS].url + "/metrics", timeout=30).text
        served = total(metrics, "vllm_router_engine_windows_total")
    text, figures = report(contenders, coming, asked.warmup)
    asked_for = sum(windows_of(upload.audio_s) for upload in coming)
    figures["windows"] = {"whole": asked_for, "cut": served}
    words, is_kept = verdict(figures)
    text += (
        f"\n\n{words}\n\nThe router's pieces and short requests made {served:.0f} windows; whole, "
        f"the uploads have {asked_for}.\n\n{asked.load:.0%} load, {len(coming)} uploads in "
        f"{coming[-1].at:.0f} simulated seconds at time scale {asked.time_scale:g}, seed "
        f"{asked.seed}; {time.monotonic() - began:.0f} s in all. Load average {min(averages):.1f} "
        f"to {max(averages):.1f} on {os.cpu_count()} cores; uploads were sent "
        f"{quantile(late, 0.99) * 1000:.0f} ms late (p99, simulated).\n"
    )
    print(text)
    for each, contender in contenders.items():
        for error in contender.errors[:3]:
            print(f"{each}: {error!r}")
    (asked.out / "table.md").write_text(text)
    figures["run"] = {**vars(asked), "out": str(asked.out), "load_average": averages,
                      "late_s": {p: quantile(late, p) for p in (0.5, 0.99, 1.0)}}  # fmt: skip
    figures["uploads"] = [
        [upload.at, upload.audio_s, *(c.answered[i] for c in contenders.values())]
        for i, upload in enumerate(coming)
    ]
    (asked.out / "fleet.json").write_text(json.dumps(figures))
    plot(contenders, coming, asked.warmup, asked.out)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
