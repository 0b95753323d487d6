"""`scripts/trace-request`: which files and calls of the router one request passes through.

Starts a router in a process of its own, with a profile hook that notes each call of a function of
`vllm_router` on the event loop's thread. A short upload (96 KB, one engine, whole) and one hour of
audio (decoded, cut, sent in segments) are traced from the client's first byte to the line in the
access log. Background work falls into that window too: functions that an idle router calls do not
count, and of several short uploads the one with the fewest calls does. Decoders are other processes
and do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.long import speech, wav_header
from benchmarks.proxies.processes import START_S, free_port
from benchmarks.proxies.uploads import BOUNDARY, MODEL, form

from vllm_router.audio.wav import pcm16_wav

ROOT = Path(__file__).parent.parent
SMALL_BYTES = 96 * 1024
RATE_HZ = 16_000
#: What a speaker says in a second, about; engines that say less are asked again.
WORDS_PER_S = 2.5
WORDS = ("some", "words", "that", "nobody", "repeats", "too", "often")
#: Uploads before the first that is traced: connections, caches and labels of metrics exist then.
WARM_UPS = 20
TRACED = 15
#: What an idle router does once a second or more often is background.
IDLE_S = 3.0
#: The access log writes its lines together after 50 ms; that is not the request's.
SETTLE_S = 0.02
HOUR_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Course:
    """One request's way through the router.

    Attributes:
        files: Calls by file, in the order of the first visit.
        functions: Calls by function, likewise.
    """

    files: tuple[tuple[str, int], ...]
    functions: tuple[tuple[str, int], ...]

    @property
    def calls(self) -> int:
        """All calls."""
        return sum(count for _, count in self.files)


# --- in the router's process


def traced_router(pipe: int, arguments: list[str]) -> None:
    """Run the router; SIGUSR1 begins to note calls, SIGUSR2 ends that and writes them to a pipe."""
    from vllm_router.cli import main

    seen: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            # Not by the file's name: what `dataclass` generates has none.
            module = frame.f_globals.get("__name__", "")
            if module.startswith("vllm_router."):
                seen[module, frame.f_code.co_qualname] += 1

    def begin(*_: object) -> None:
        seen.clear()
        os.write(pipe, b"\n")
        sys.setprofile(note)

    def end(*_: object) -> None:
        sys.setprofile(None)
        found = [[*key, count] for key, count in seen.items()]
        os.write(pipe, json.dumps(found).encode() + b"\n")

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    sys.exit(main(arguments))


# --- the engine


class _Engine(BaseHTTPRequestHandler):
    """Answers with as many words as were probably said."""

    protocol_version = "HTTP/1.1"
    # One write for head and body, as vLLM's uvicorn does.
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._answer({"object": "list", "data": [{"id": MODEL.decode(), "object": "model"}]})
        else:
            self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seconds = len(body) / 2 / RATE_HZ
        count = int(seconds * WORDS_PER_S) + 1
        words = " ".join(WORDS[at % len(WORDS)] for at in range(count))
        said: dict[str, Any] = {
            "text": words,
            "usage": {"type": "duration", "seconds": max(1, round(seconds))},
        }
        if b"verbose_json" in body:
            segment = {"id": 0, "start": 0.0, "end": seconds, "text": words, "avg_logprob": -0.2}
            said |= {"language": "en", "duration": seconds, "segments": [segment]}
        self._answer(said)

    def _answer(self, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    disable_nagle_algorithm = True


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """Serve as an engine and yield its URL."""
    server = _Server(("127.0.0.1", 0), _Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


# --- the client


class Router:
    """A traced router, and one connection to it."""

    def __init__(self, url: str, log: Path) -> None:
        self._pipe, theirs = os.pipe()
        self._port = free_port()
        command = [sys.executable, "-m", "benchmarks.trace_request", "--in-router", str(theirs)]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--static-backends", url]
        # Nothing in the background that can be put off.
        command += ["--engine-stats-interval", "60", "--decode-workers", "1"]
        command += ["--static-backend-health-check-interval", "60"]
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, env=env, pass_fds=[theirs]
            )
        os.close(theirs)
        self._log = log
        self._background: set[tuple[str, str]] = set()
        self._await_ready()
        self._socket = socket.create_connection(("127.0.0.1", self._port))
        self._socket.settimeout(HOUR_TIMEOUT_S)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ready", timeout=5).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"the router does not start:\n{self._log.read_text()[-2000:]}")

    def send(self, body: bytes) -> None:
        """Send one upload and read its answer.

        Raises:
            RuntimeError: The answer is not 200.
        """
        head = (
            "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: trace\r\nUser-Agent: curl/8.5.0\r\n"
            "Accept: */*\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        with http.client.HTTPResponse(self._socket) as answer:
            answer.begin()
            said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the router answered {answer.status}: {said[:300]!r}")

    def note_background(self) -> None:
        """Learn what the router does with nothing to do."""
        with self._tracing() as seen:
            time.sleep(IDLE_S)
        self._background = {(module, name) for module, name, _ in seen}

    def trace(self, body: bytes) -> Course:
        """Return the way of one upload through the router."""
        with self._tracing() as seen:
            self.send(body)
            time.sleep(SETTLE_S)
        files: Counter[str] = Counter()
        functions: Counter[str] = Counter()
        for module, name, count in seen:
            if (module, name) not in self._background:
                file = module.removeprefix("vllm_router.").replace(".", "/") + ".py"
                files[file] += count
                functions[f"{file}: {name}"] += count
        return Course(tuple(files.items()), tuple(functions.items()))

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[list[tuple[str, str, int]]]:
        seen: list[tuple[str, str, int]] = []
        self._process.send_signal(signal.SIGUSR1)
        self._line()
        yield seen
        self._process.send_signal(signal.SIGUSR2)
        seen += [(module, name, count) for module, name, count in json.loads(self._line())]

    def _line(self) -> bytes:
        got = b""
        while not got.endswith(b"\n"):
            got += os.read(self._pipe, 65536)
        return got

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._pipe)


def short_course(router: Router) -> Course:
    """Return the way of a short upload, the shortest of several."""
    body = form(pcm16_wav((bytes(range(256)) * (SMALL_BYTES // 256)), RATE_HZ))
    for _ in range(WARM_UPS):
        router.send(body)
    return min((router.trace(body) for _ in range(TRACED)), key=lambda course: course.calls)


def hour_course(router: Router, seconds: float) -> Course:
    """Return the way of long audio."""
    pcm = speech(seconds, RATE_HZ, 1)
    body = form(wav_header(len(pcm), RATE_HZ, 1) + pcm)
    return router.trace(body)


def report(title: str, course: Course, *, with_functions: bool) -> str:
    """Return what is printed of one request."""
    lines = [f"{title}: {len(course.files)} files, {course.calls:,} calls"]
    for file, count in course.files:
        lines.append(f"  {count:>7,}  {file}")
        if with_functions:
            here = [(name, n) for name, n in course.functions if name.startswith(f"{file}: ")]
            lines += [f"  {n:>15,}  {name.partition(': ')[2]}" for name, n in here]
    return "\n".join(lines)


def main() -> int:
    """Trace what was asked for; 1 if a bound is passed."""
    if sys.argv[1:2] == ["--in-router"]:
        traced_router(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(prog="scripts/trace-request", description=__doc__)
    parser.add_argument("--functions", action="store_true", help="calls by function, too")
    parser.add_argument("--short", action="store_true", help="only the short upload")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the long audio")
    parser.add_argument("--max-files", type=int, help="fail if the short upload passes more")
    parser.add_argument("--max-calls", type=int, help="fail if the short upload takes more")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trace-") as folder, engine() as url:
        router = Router(url, Path(folder, "router.log"))
        try:
            router.note_background()
            short = short_course(router)
            print(report("a short upload", short, with_functions=args.functions))
            if not args.short:
                long = hour_course(router, args.minutes * 60)
                title = f"{args.minutes:g} minutes of audio"
                print(report(title, long, with_functions=args.functions))
        finally:
            router.close()
    is_over = args.max_files is not None and len(short.files) > args.max_files
    is_over |= args.max_calls is not None and short.calls > args.max_calls
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
