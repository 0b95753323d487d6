"""What the chaos is done to: engines, three routers, HAProxy, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes.util
import glob
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos import net
from benchmarks.chaos.nonsense import Sources
from benchmarks.chaos.uploads import MODEL
from benchmarks.proxies.processes import await_answer

ENGINES = 6
ROUTERS = 3
SPOOL_BYTES = 48 * 2**20
#: Short enough for a hung engine to be seen several times in a run of minutes.
ROUTER_ARGUMENTS = (
    # HAProxy goes on for as long as its check takes to see that a router leaves.
    "--shutdown-grace-s", "2",
    "--static-backend-health-checks",
    "--static-backend-health-check-interval", "1",
    "--static-backend-health-check-timeout-seconds", "2",
    "--engine-stats-interval", "2",
    "--connect-timeout-s", "2",
    "--read-timeout-s", "10",
    "--write-timeout-s", "5",
    "--drain-timeout-s", "90",
    "--max-queue-wait-s", "60",
    "--spool-memory-mb", "4",
    "--decode-workers", "1",
    # What speaks here is noise: a level meter takes it for speech, and engines' words, made of an
    # upload's digest, are too few for its length.
    "--vad", "level",
    "--no-verify",
    "--split-longer-than-s", "60",
)  # fmt: skip


def quiet_port() -> int:
    """Return a free port that no outgoing connection is given while its owner is dead."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


@dataclass(slots=True)
class Actor:
    """A process that may be killed and started again.

    Attributes:
        name: For the log.
        command: Starts it.
        log: Its output, of all its lives.
        env: Besides our own.
        process: Its present life.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin", **self.env},
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its main process."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def end(self, timeout_s: float = 120.0) -> None:
        """Wait until it has ended."""
        process = self.process
        assert process is not None
        deadline = time.monotonic() + timeout_s
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not end; see {self.log}")
            await asyncio.sleep(0.02)

    def kill(self) -> None:
        """Kill it and what it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass(slots=True)
class Stage:
    """Everything that runs.

    Attributes:
        engines: The engines.
        engine_urls: Where they are.
        routers: The routers.
        router_urls: Where they are.
        sources: The files that each of them reads.
        haproxy: What stands before them.
        port: Where it listens.
        links: The engines' namespaces; empty: none could be made.
        spool: The routers' spool folder.
        is_small_spool: Whether it is a file system of its own, small enough to be filled.
        clock_file: Written to move the clock of one router and one engine; None: cannot be done.
        lacks: What cannot be done on this machine, and why.
    """

    folder: Path
    engines: list[Actor] = field(default_factory=list)
    engine_urls: list[str] = field(default_factory=list)
    routers: list[Actor] = field(default_factory=list)
    router_urls: list[str] = field(default_factory=list)
    sources: list[Sources] = field(default_factory=list)
    haproxy: Actor | None = None
    port: int = 0
    links: list[net.Link] = field(default_factory=list)
    spool: Path = Path()
    is_small_spool: bool = False
    clock_file: Path | None = None
    lacks: dict[str, str] = field(default_factory=dict)

    def set_up(self) -> None:
        """Start everything and wait until it answers."""
        self._lay_network()
        self._make_spool()
        clock = self._clock_env()
        for index in range(ENGINES):
            link = self.links[index] if self.links else None
            port = 8000 if link else quiet_port()
            address = link.address if link else "127.0.0.1"
            command = [
                *(link.enter if link else ()),
                sys.executable, "-m", "benchmarks.chaos.engine", "--host", address,
                "--port", str(port), "--served-model-name", MODEL, "--time-scale", "20",
                "--seed", str(index),
            ]  # fmt: skip
            self.engine_urls.append(f"http://{address}:{port}")
            log = self.folder / f"engine{index}.log"
            self.engines.append(Actor(f"engine {index}", command, log, clock if not index else {}))
        for index in range(ROUTERS):
            port = quiet_port()
            rng = random.Random(index)
            sources = Sources(self.folder / f"router{index}", self.engine_urls, rng)
            self.sources.append(sources)
            command = [
                sys.executable, "-m", "vllm_router.app", "--host", "127.0.0.1", "--port", str(port),
                "--service-discovery", "file", "--discovery-file", str(sources.engines),
                "--api-key-file", str(sources.keys), "--spool-dir", str(self.spool),
                *ROUTER_ARGUMENTS,
            ]  # fmt: skip
            self.router_urls.append(f"http://127.0.0.1:{port}")
            log = self.folder / f"router{index}.log"
            self.routers.append(Actor(f"router {index}", command, log, clock if not index else {}))
        for actor in (*self.engines, *self.routers):
            actor.start()
        for actor, url in zip(self.routers, self.router_urls, strict=True):
            assert actor.process is not None
            await_answer(f"{url}/ready", actor.process, actor.log)
        self._start_haproxy()

    def tear_down(self) -> None:
        """End everything."""
        for actor in (*self.routers, *self.engines, *([self.haproxy] if self.haproxy else ())):
            actor.kill()
        for link in self.links:
            net.take_up(link)
        if self.is_small_spool:
            net.admin("umount", str(self.spool))

    def _lay_network(self) -> None:
        tag = random.randrange(55)
        try:
            for index in range(ENGINES):
                self.links.append(net.lay(index, tag))
        except PermissionError as e:
            for link in self.links:
                net.take_up(link)
            self.links = []
            self.lacks["network"] = f"no network namespaces here: {e}"
            return
        self.lacks |= net.lacks(self.links[0])

    def _make_spool(self) -> None:
        self.spool = self.folder / "spool"
        self.spool.mkdir()
        failure = net.admin(
            "mount", "-t", "tmpfs", "-o", f"size={SPOOL_BYTES}", "tmpfs", str(self.spool)
        )
        self.is_small_spool = failure is None
        if failure is not None:
            self.lacks["disk"] = f"no file system for the spool: {failure}"

    def _clock_env(self) -> dict[str, str]:
        found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1") or list(
            filter(None, [ctypes.util.find_library("faketime")])
        )
        if not found:
            self.lacks["clock"] = "libfaketime (Debian package faketime) is not installed"
            return {}
        self.clock_file = self.folder / "clock"
        self.set_clock(0)
        return {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set_clock(self, offset_s: int) -> None:
        """Move the wall clock of those whose clock can be moved."""
        if self.clock_file is not None:
            fresh = self.clock_file.with_suffix(".new")
            fresh.write_text(f"{offset_s:+d}\n")
            fresh.replace(self.clock_file)

    def _start_haproxy(self) -> None:
        self.port = quiet_port()
        # HAProxy's own refusals in the shape that clients read; "haproxy_…" tells whose they are.
        errors = "\n".join(
            f'  http-error status {status} content-type "application/json" string '
            f'\'{{"error":{{"message":"The proxy answers {status}.","type":"server_error",'
            f'"param":null,"code":"haproxy_{status}"}}}}\''
            for status in (502, 503, 504)
        )
        servers = "\n".join(
            f"  server router{i} {url.removeprefix('http://')} check"
            for i, url in enumerate(self.router_urls)
        )
        config = self.folder / "haproxy.cfg"
        config.write_text(f"""\
global
  maxconn 4096
defaults
  mode http
  timeout connect 2s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  option redispatch 1
  retries 3
{errors}
frontend clients
  bind 127.0.0.1:{self.port}
  default_backend routers
backend routers
  balance roundrobin
  option httpchk GET /ready
  default-server inter 200ms fall 1 rise 1
  http-response set-header x-router %s
{servers}
""")
        command = ["haproxy", "-db", "-f", str(config)]
        self.haproxy = Actor("HAProxy", command, self.folder / "haproxy.log")
        self.haproxy.start()
        assert self.haproxy.process is not None
        url = f"http://127.0.0.1:{self.port}/ready"
        await_answer(url, self.haproxy.process, self.haproxy.log)
