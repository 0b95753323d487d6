"""The router's command as a process, the way people start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

#: What a loaded machine may take to start Python with everything in it.
START_S = 60.0


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of the router's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_ROUTER_", "VLLM_API"))}
    return {**kept, **more}


def fails(*arguments: str, **env: str) -> str:
    """Run the command, which must refuse to start, and return its one sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm_router.app", *arguments],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("vllm-router: ")
    assert line.endswith(".")
    return line.removeprefix("vllm-router: ")


@dataclass(slots=True)
class Process:
    """A router's process.

    Attributes:
        process: The process.
        log: Where its standard error goes.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def lines(self) -> list[str]:
        """What it has logged so far."""
        return self.log.read_text(errors="replace").splitlines()

    def wait_for(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """Return the first `count` matches in the log, once there are so many."""
        deadline = time.monotonic() + START_S
        while True:
            text = self.log.read_text(errors="replace")
            found = list(re.finditer(pattern, text))
            if len(found) >= count:
                return found[:count]
            assert self.process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.02)

    @property
    def url(self) -> str:
        """Where it listens."""
        [said] = self.wait_for(r"listens on http://[^:]+:(\d+)")
        return f"http://127.0.0.1:{said[1]}"

    def wait_until_ready(self) -> str:
        """Return its address once it is ready."""
        url = self.url
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(url + "/ready").status_code == 200:
                    return url
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text(errors="replace"))

    def signal_again(self) -> None:
        """Send SIGTERM once more, later: one that comes at once is the same word, said twice."""
        time.sleep(1.2)
        assert self.process.poll() is None
        os.kill(self.process.pid, signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_S)


@contextmanager
def router_process(
    log: Path, arguments: Sequence[str], command: Sequence[str] = (), **env: str
) -> Iterator[Process]:
    """Run the command until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "vllm_router.app")), *arguments],
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield Process(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
