"""Programs the tests start: engines and the router, each in a process group of its own.

Promises that whatever was started is gone when its `with` block ends, workers included, and that a
server that dies or stays silent fails the test with the end of its log.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Server:
    """A running program that serves HTTP on a port of its own.

    `process` is replaced by `start`; `log` is appended to over restarts.
    """

    command: Callable[[int], Sequence[str]]
    log: Path
    ready_path: str
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the program, on the same port when it ran before."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(self.port),
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return once the ready path answers 200.

        Raises:
            AssertionError: the program ended or did not get ready in time.
        """
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"ended at start:\n{self.log_end()}"
            try:
                if httpx.get(self.url + self.ready_path, timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{self.url} not ready after {timeout_s} s:\n{self.log_end()}")

    def kill(self) -> None:
        """End the program and all its workers at once, as a lost machine would."""
        self._signal_group(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def stop(self, timeout_s: float = 30) -> int | None:
        """Ask the program to end, force what is left, and return its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        self.kill()
        return self.process.returncode

    def log_end(self, lines: int = 40) -> str:
        """Return the last lines the program printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _signal_group(self, number: signal.Signals) -> None:
        # The group outlives its leader while a worker runs, and a pid is not reused while its
        # group exists.
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


_GIVEN: set[int] = set()


def free_port() -> int:
    """Return a port nobody listens on now.

    It is none that the kernel would choose: tests that run in parallel bind port 0 all the time,
    and one of them could be given the port before the server that it is meant for has started. Nor
    is it one that this function has returned before.
    """
    # Not the shared generator: hypothesis seeds that alike in every worker.
    chance = random.SystemRandom()
    while True:
        with socket.socket() as listener, suppress(OSError):
            port = chance.randrange(20_000, 32_000)
            if port not in _GIVEN:
                listener.bind(("127.0.0.1", port))
                _GIVEN.add(port)
                return port


def router(engine_urls: Sequence[str], log: Path, *arguments: str) -> Server:
    """Describe a router in front of engines; `arguments` are further flags."""
    return Server(
        command=lambda port: [
            *(sys.executable, "-m", "vllm_router.app", "--host", "127.0.0.1"),
            *("--port", str(port), "--static-backends", ",".join(engine_urls), *arguments),
        ],
        log=log,
        ready_path="/ready",
        port=free_port(),
        environment={"PYTHONPATH": str(ROOT / "src")},
    )


@contextmanager
def running(servers: Sequence[Server], timeout_s: float) -> Iterator[None]:
    """Run servers side by side; ready inside the block, gone after it."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_ready(timeout_s)
        yield
    finally:
        for server in servers:
            if server.process is not None and server.process.poll() is None:
                server.process.terminate()
        for server in servers:
            server.stop()
