"""Load: wrk for speed, and many large uploads at once for memory."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.proxies.contenders import Target
from benchmarks.proxies.processes import cpu_s, memory_bytes, spool_bytes
from benchmarks.proxies.uploads import Upload

PATH = "/v1/audio/transcriptions"
SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Speed:
    """One round of one target.

    Attributes:
        requests: Uploads answered.
        failed: Uploads not answered with 2xx.
        per_s: Uploads per second.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        cpu_ms: The proxy's CPU per upload; None for an engine itself.
    """

    requests: int
    failed: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float | None


def speed(
    target: Target, upload: Upload, connections: int, seconds: int, core: int | None = None
) -> Speed:
    """Send one upload again and again over so many connections, from one core if it is named."""
    script = Path(__file__).with_name("wrk.lua")
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    command = [
        *pinned, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s",
        "-s", str(script), target.url + PATH, "--", str(upload.path), upload.content_type,
    ]  # fmt: skip
    before = cpu_s(target.pid) if target.pid is not None else 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = cpu_s(target.pid) if target.pid is not None else 0.0
    line = next(text for text in done.stdout.splitlines() if text.startswith("RESULT "))
    said = json.loads(line.removeprefix("RESULT "))
    count = said["requests"]
    return Speed(
        requests=count,
        failed=said["failed"],
        per_s=count / said["seconds"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        cpu_ms=None if target.pid is None or not count else (after - before) * 1000 / count,
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """What many large uploads at once took.

    Attributes:
        growth_bytes: The most resident memory above what the proxy had before.
        spool_bytes: The most disk taken by its temporary files.
        seconds: Until the last answer.
        answered: Uploads answered with 200.
    """

    growth_bytes: int
    spool_bytes: int
    seconds: float
    answered: int


class _Sender:
    """One upload over one socket that never blocks."""

    def __init__(self, target: Target, head: bytes, body: memoryview) -> None:
        url = urlsplit(target.url)
        self.socket = socket.create_connection((url.hostname, url.port))
        self.socket.setblocking(False)
        self._left = [memoryview(head), body]
        self.answer = b""

    def write(self) -> bool:
        """Send what goes; False when all has gone."""
        while self._left:
            try:
                sent = self.socket.send(self._left[0][: 256 * 1024])
            except BlockingIOError:
                return True
            self._left[0] = self._left[0][sent:]
            if not self._left[0]:
                del self._left[0]
        return False

    def read(self) -> bool:
        """Take what came; False when the answer is over."""
        try:
            got = self.socket.recv(65536)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.answer += got
        return bool(got) and b"}" not in self.answer


def memory(target: Target, upload: Upload, count: int, most_s: float = 300.0) -> Memory:
    """Send so many uploads at once and watch the proxy's memory."""
    assert target.pid is not None
    body = memoryview(upload.path.read_bytes())
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: {upload.content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    before = most = memory_bytes(target.pid)
    most_spool = 0
    started = time.monotonic()
    sample_at = started
    selector = selectors.DefaultSelector()
    senders = [_Sender(target, head, body) for _ in range(count)]
    for sender in senders:
        selector.register(sender.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, sender)
    while selector.get_map() and time.monotonic() < started + most_s:
        for key, events in selector.select(SAMPLE_S):
            sender = key.data
            if events & selectors.EVENT_WRITE and not sender.write():
                selector.modify(sender.socket, selectors.EVENT_READ, sender)
            if events & selectors.EVENT_READ and not sender.read():
                selector.unregister(sender.socket)
                sender.socket.close()
        if time.monotonic() >= sample_at:
            most = max(most, memory_bytes(target.pid))
            most_spool = max(most_spool, spool_bytes(target.pid))
            sample_at = time.monotonic() + SAMPLE_S
    answered = sum(b" 200 " in sender.answer[:20] for sender in senders)
    return Memory(most - before, most_spool, time.monotonic() - started, answered)
