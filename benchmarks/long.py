"""How long audio scales: over engines, and over hours.

    python benchmarks/long.py speedup [--windows 4] [--time-scale 0.2]
    python benchmarks/long.py memory [--hours 1 3 10]

`speedup` sends one hour of speech to 1, 8 and 16 simulated engines and prints how many times
sooner it is answered. `memory` streams 44.1 kHz stereo WAVs of the given lengths up and prints the
greatest memory that the router's process, and it with its decoders, had over idle. Real processes,
all on this machine: compare figures of one run only.
"""

import argparse
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "speech_model" / "samples"
MODEL = "openai/whisper-small"


def speech(seconds: float, rate_hz: int, channels: int) -> bytes:
    """Return PCM of the sample recordings, joined with faint noise between them."""
    rng, noise = random.Random(1), np.random.default_rng(1)
    parts: list[np.ndarray] = []
    have = 0
    names = sorted(SAMPLES.glob("*.wav"))
    while have < seconds * 16_000:
        with wave.open(str(rng.choice(names))) as file:
            part = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        gap = noise.normal(0, 12, int(16_000 * rng.uniform(0.3, 1.2))).round().astype("<i2")
        parts += [part, gap]
        have += len(part) + len(gap)
    pcm = np.concatenate(parts)[: int(seconds * 16_000)]
    if rate_hz != 16_000:
        at = np.arange(int(len(pcm) * rate_hz / 16_000)) * (16_000 / rate_hz)
        pcm = np.interp(at, np.arange(len(pcm)), pcm).astype("<i2")
    return np.repeat(pcm, channels).tobytes()


def wav_header(size: int, rate_hz: int, channels: int) -> bytes:
    """Return the header of a 16-bit WAV; a size past 4 GB is written as unknown, as ffmpeg does."""
    riff, data = (min(size + 36, 0xFFFFFFFF), min(size, 0xFFFFFFFF))
    return struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", riff, b"WAVEfmt ", 16, 1, channels, rate_hz,
        rate_hz * channels * 2, channels * 2, 16, b"data", data,
    )  # fmt: skip


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def fleet(engines: int, time_scale: float, *flags: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run engines and a router; yield the router's port and process."""
    ports = [free_port() for _ in range(engines)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fake_engine", "--port", str(port),
             "--time-scale", str(time_scale)],
            **quiet,
        )
        for port in ports
    ]  # fmt: skip
    port = free_port()
    urls = ",".join(f"http://127.0.0.1:{p}" for p in ports)
    router = subprocess.Popen(
        [sys.executable, "-m", "vllm_router.app", "--host", "127.0.0.1", "--port", str(port),
         # What speaks is noise, and the engines' words are made up.
         "--static-backends", urls, "--vad", "level", "--no-verify", *flags],
        **quiet,
    )  # fmt: skip
    children.append(router)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                states = httpx.get(f"http://127.0.0.1:{port}/engines").json()
                if len(states) == engines and all(e["state"] == "ready" for e in states):
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        yield port, psutil.Process(router.pid)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(30)


def form(header: bytes, blocks: Iterator[bytes], size: int) -> tuple[Iterator[bytes], int, str]:
    """Return a multipart body as an iterator, its length and its content type."""
    boundary = "benchmark-boundary"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{MODEL}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    ).encode() + header
    tail = f"\r\n--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield head
        yield from blocks
        yield tail

    return body(), len(head) + size + len(tail), f"multipart/form-data; boundary={boundary}"


def post(port: int, hours: float, block: bytes, rate_hz: int, channels: int) -> float:
    """Send one block repeated; return the seconds from its last byte to the answer."""
    size = int(hours * 3600 * rate_hz) * channels * 2
    sent = 0.0

    def blocks() -> Iterator[bytes]:
        nonlocal sent
        left = size
        while left:
            piece = block[: min(left, len(block))]
            left -= len(piece)
            yield piece
        sent = time.monotonic()

    body, length, kind = form(wav_header(size, rate_hz, channels), blocks(), size)
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/audio/transcriptions",
        content=body,
        headers={"content-type": kind, "content-length": str(length)},
        timeout=3600,
    )
    answer.raise_for_status()
    assert answer.json()["text"]
    return time.monotonic() - sent


def speedup(windows: str, time_scale: float) -> dict[str, float]:
    """Measure one hour over 1, 8 and 16 engines; the better of two runs each."""
    block = speech(3600, 16_000, 1)
    seconds = {}
    for engines in (1, 8, 16):
        with fleet(engines, time_scale, "--engine-max-windows", windows) as (port, _):
            post(port, 0.05, block, 16_000, 1)
            seconds[engines] = min(post(port, 1.0, block, 16_000, 1) for _ in range(2))
        print(f"{engines:2d} engines: {seconds[engines]:6.2f} s", flush=True)
    ratios = {f"over {n}": round(seconds[1] / seconds[n], 2) for n in (8, 16)}
    print(ratios)
    return ratios


def memory(hours: list[float]) -> dict[str, float]:
    """Measure the router's memory over idle while it takes and cuts long audio."""
    block = speech(600, 44_100, 2)
    out = {}
    for length in hours:
        with fleet(8, 200.0) as (port, router):
            time.sleep(2)
            idle = _memory(router)
            peak = [idle[0], idle[1]]
            done = threading.Event()

            def watch(router=router, peak=peak, done=done) -> None:
                while not done.wait(0.1):
                    now = _memory(router)
                    peak[:] = [max(a, b) for a, b in zip(peak, now, strict=True)]

            watcher = threading.Thread(target=watch)
            watcher.start()
            seconds = post(port, length, block, 44_100, 2)
            done.set()
            watcher.join()
        grown = [round((a - b) / 2**20) for a, b in zip(peak, idle, strict=True)]
        out[f"{length:g} h"] = grown[1]
        print(
            f"{length:4g} h: the router grew by {grown[0]} MB, with its decoders {grown[1]} MB; "
            f"answered {seconds:.1f} s after the last byte",
            flush=True,
        )
    return out


def _memory(process: psutil.Process) -> tuple[int, int]:
    own = process.memory_full_info().uss
    children = 0
    for child in process.children(recursive=True):
        try:
            children += child.memory_full_info().uss
        except psutil.Error:
            continue
    return own, own + children


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("speedup", "memory"))
    parser.add_argument("--windows", default="4", help="--engine-max-windows of the router")
    parser.add_argument("--time-scale", type=float, default=0.2, help="of the engines: 0.2 is slow")
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    if arguments.what == "speedup":
        figures = speedup(arguments.windows, arguments.time_scale)
    else:
        figures = memory(arguments.hours)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
