"""Processes: starting and ending them, and what they cost.

CPU is read from /proc/PID/task/*/schedstat, which counts nanoseconds; memory from smaps_rollup. A
proxy's workers and threads are counted with it. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_S = 30.0
#: What a vLLM with Whisper said of itself after some requests.
METRICS = Path(__file__).with_name("vllm_metrics.txt")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """Return a process and its descendants, those that still live."""
    out = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            for child in children:
                out += tree(int(child))
    return out


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process, its threads and its children have used."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                total += int(Path(f"/proc/{each}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e9


def memory_bytes(pid: int) -> int:
    """Return the proportional set size of a process and its children."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def spool_bytes(pid: int) -> int:
    """Return the disk blocks of the temporary files that a process and its children hold open."""
    seen: dict[tuple[int, int], int] = {}
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{each}/fd"):
                with contextlib.suppress(OSError):
                    name = f"/proc/{each}/fd/{fd}"
                    info = os.stat(name)
                    if stat.S_ISREG(info.st_mode) and os.readlink(name).endswith("(deleted)"):
                        seen[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(seen.values())


@contextlib.contextmanager
def running(
    command: list[str], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with its output in a file, and end it and its children in the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(env or {})}
        )
    try:
        yield process
    finally:
        family = tree(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a URL answers with anything below 500.

    Raises:
        RuntimeError: The process ended or took too long; its log's end says why.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError as e:
            if e.code < 500:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def engines(
    binary: Path, count: int, rate: int = 0, answer: Path | None = None
) -> Iterator[list[str]]:
    """Run the engine on so many ports, with an answer of its own or a file's; yield their URLs."""
    command = [str(binary), str(count), str(rate), str(METRICS)]
    command += [str(answer)] if answer is not None else []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ports = process.stdout.readline().split()
            yield [f"http://127.0.0.1:{int(port)}" for port in ports]
        finally:
            process.kill()


def build_engine(folder: Path) -> Path:
    """Compile the engine."""
    binary = folder / "engine"
    source = Path(__file__).with_name("engine.c")
    subprocess.run(["gcc", "-O2", "-o", str(binary), str(source)], check=True)
    return binary
