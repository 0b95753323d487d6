"""The cost of decoding long audio, finding speech and cutting: CPU seconds per hour, and memory.

`python benchmarks/decode.py [--hours 1] [--long-hours 10] [--vad silero]` makes an hour of speech
from the recordings in `speech_model/samples` in several formats (by ffmpeg, which must be
installed), sends each through the decoder that the router uses, and prints a table. The last row is
a WAV of 44.1 kHz stereo as long as `--long-hours`, to show that memory does not grow with it.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vllm_router.audio.decoding.decoder import AudioDecoder

SAMPLES = Path(__file__).parents[1] / "speech_model" / "samples"
RATE_HZ = 16_000
FORMATS = {
    "mp3 44.1 kHz stereo 128k": ("mp3", ["-ac", "2", "-ar", "44100", "-b:a", "128k"]),
    "mp3 16 kHz mono 48k": ("mp3", ["-b:a", "48k"]),
    "ogg opus 24k": ("ogg", ["-c:a", "libopus", "-b:a", "24k"]),
    "m4a 44.1 kHz stereo 128k": ("m4a", ["-ac", "2", "-ar", "44100", "-b:a", "128k"]),
    "flac 44.1 kHz stereo": ("flac", ["-ac", "2", "-ar", "44100"]),
    "wav 44.1 kHz stereo": ("wav", ["-ac", "2", "-ar", "44100"]),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one decoding took: of the worker CPU and memory, of the whole the time."""

    pieces: int
    audio_s: float
    packed_s: float
    first_piece_s: float
    wall_s: float
    cpu_s: float
    peak_mb: float
    router_mb: float


def speech(path: Path, hours: float) -> None:
    """Write recordings one after the other, with pauses of faint noise, as 16 kHz WAV."""
    rng = np.random.default_rng(1)
    names = sorted(SAMPLES.glob("*.wav"))
    left = round(hours * 3600 * RATE_HZ)
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        while left > 0:
            with wave.open(str(names[rng.integers(len(names))])) as file:
                pcm = file.readframes(file.getnframes())
            pause = rng.normal(0, 12, rng.integers(3000, 10_000)).astype("<i2").tobytes()
            out.writeframes((pcm + pause)[: 2 * left])
            left -= len(pcm + pause) // 2


def long_wav(path: Path, hours: float) -> None:
    """Write a 44.1 kHz stereo WAV whose samples are a hole in the file: silence, but no disk."""
    with wave.open(str(path), "wb") as out:
        out.setparams((2, 2, 44_100, 0, "NONE", ""))
        out.writeframes(b"")
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff\xff\xff")
        file.truncate(44 + round(hours * 3600 * 176_400))


def process_cost(pid: int) -> tuple[float, float]:
    """Return (CPU seconds, peak resident MB) of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text()
    return cpu_s, int(status.split("VmHWM:")[1].split()[0]) / 1024


def worker_pid() -> int:
    """Return the one child process there is."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(children[0])


async def measure(path: Path, vad: str) -> Cost:
    """Decode one file in a fresh worker, taking each piece and letting it go."""
    async with AudioDecoder(max_workers=1, vad=vad) as decoder:
        await decoder.warm()
        before_s, _ = process_cost(worker_pid())
        began = time.perf_counter()
        count, first_s, packed_s = 0, 0.0, 0.0
        async with decoder.pieces(path) as pieces:
            async for piece in pieces:
                first_s = first_s or time.perf_counter() - began
                count += 1
                packed_s += piece.length_s
        wall_s = time.perf_counter() - began
        after_s, peak_mb = process_cost(worker_pid())
    _, router_mb = process_cost(os.getpid())
    assert pieces.length_s is not None
    return Cost(
        count, pieces.length_s, packed_s, first_s, wall_s, after_s - before_s, peak_mb, router_mb
    )


def row(name: str, cost: Cost) -> str:
    """Return one line of the table."""
    hours = cost.audio_s / 3600
    return (
        f"| {name} | {cost.audio_s:.0f} | {cost.pieces} | {cost.packed_s:.0f} | "
        f"{cost.first_piece_s:.2f} | "
        f"{cost.wall_s:.1f} | {cost.cpu_s / hours:.2f} | {cost.peak_mb:.0f} | "
        f"{cost.router_mb:.0f} |"
    )


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--long-hours", type=float, default=10.0)
    parser.add_argument("--vad", choices=("silero", "level", "off"), default="silero")
    args = parser.parse_args()
    print("| file | audio s | pieces | seconds in them | first piece s | wall s | CPU s per hour |"
          " worker peak MB | reader peak MB |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "speech.wav"
        speech(plain, args.hours)
        print(row("wav 16 kHz mono", asyncio.run(measure(plain, args.vad))), flush=True)
        for name, (extension, options) in FORMATS.items():
            path = Path(folder) / f"speech_out.{extension}"
            command = ["ffmpeg", "-v", "error", "-y", "-i", str(plain), *options, str(path)]
            subprocess.run(command, check=True)
            print(row(name, asyncio.run(measure(path, args.vad))), flush=True)
            path.unlink()
        for hours in (args.long_hours / 10, args.long_hours):
            path = Path(folder) / "long.wav"
            long_wav(path, hours)
            print(
                row(f"wav 44.1 kHz stereo, {hours:g} h", asyncio.run(measure(path, args.vad))),
                flush=True,
            )


if __name__ == "__main__":
    main()
