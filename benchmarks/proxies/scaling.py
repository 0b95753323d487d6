"""Whether cost grows as it should: with open connections, with engines, and with nothing to do."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.proxies.contenders import Target, router
from benchmarks.proxies.load import Speed, speed
from benchmarks.proxies.processes import cpu_s, engines
from benchmarks.proxies.uploads import Upload

#: What wrk holds open while many other connections idle.
ACTIVE = 8
HEALTH = b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"


@contextlib.contextmanager
def idle_connections(target: Target, count: int) -> Iterator[None]:
    """Hold connections open that have each asked once and now ask no more."""
    url = urlsplit(target.url)
    held = []
    try:
        for _ in range(count):
            held.append(socket.create_connection((url.hostname, url.port)))
            held[-1].sendall(HEALTH)
        for each in held:
            if b" 200 " not in each.recv(4096):
                raise RuntimeError("the router refuses connections")
        yield
    finally:
        for each in held:
            each.close()


def with_connections(
    folder: Path, binary: Path, upload: Upload, count: int, rounds: int, seconds: int
) -> dict[str, Any]:
    """Compare the CPU per upload with ten connections open and with many."""
    few: list[Speed] = []
    many: list[Speed] = []
    with engines(binary, 2) as urls, router(folder, urls) as a, router(folder, urls) as b:
        speed(a, upload, ACTIVE, 1)
        speed(b, upload, ACTIVE, 1)
        for _ in range(rounds):
            # Anew each round: the router closes what idles for too long.
            with idle_connections(a, 10 - ACTIVE), idle_connections(b, count - ACTIVE):
                few.append(speed(a, upload, ACTIVE, seconds))
                many.append(speed(b, upload, ACTIVE, seconds))
    return _compared("connections", 10, count, few, many)


def with_engines(
    folder: Path, binary: Path, upload: Upload, count: int, rounds: int, seconds: int
) -> dict[str, Any]:
    """Compare the CPU per upload with one engine and with many."""
    few: list[Speed] = []
    many: list[Speed] = []
    with (
        engines(binary, 1) as one,
        engines(binary, count) as urls,
        router(folder, one) as a,
        router(folder, urls) as b,
    ):
        # Every engine is found, probed and spoken to before anything is measured.
        time.sleep(3.0)
        speed(a, upload, ACTIVE, 2)
        speed(b, upload, ACTIVE, 2)
        for _ in range(rounds):
            few.append(speed(a, upload, ACTIVE, seconds))
            many.append(speed(b, upload, ACTIVE, seconds))
    return _compared("engines", 1, count, few, many)


def idle(folder: Path, binary: Path, count: int, seconds: float) -> dict[str, Any]:
    """Return the share of a core that a router with so many engines takes with nothing to do."""
    with engines(binary, count) as urls, router(folder, urls) as target:
        assert target.pid is not None
        time.sleep(5.0)
        before, since = cpu_s(target.pid), time.monotonic()
        time.sleep(seconds)
        share = (cpu_s(target.pid) - before) / (time.monotonic() - since)
    return {"engines": count, "core_share": share}


def _compared(
    what: str, few: int, many: int, at_few: list[Speed], at_many: list[Speed]
) -> dict[str, Any]:
    costs = [median(s.cpu_ms or 0.0 for s in speeds) for speeds in (at_few, at_many)]
    return {
        "of": what,
        "few": few,
        "many": many,
        "cpu_ms_few": costs[0],
        "cpu_ms_many": costs[1],
        "ratio": costs[1] / costs[0],
        "failed": sum(s.failed for s in (*at_few, *at_many)),
    }
