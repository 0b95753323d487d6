"""What the chart runs inside an engine's container: ready.py and drain.py, against real sockets."""

import io
import os
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.clients.servers import ROOT, Server, free_port, running
from tests.helm.chart import CHART, of_kind, render

FILES = CHART / "files"
IDLE = b'vllm:num_requests_running{engine="0",model_name="m"} 0.0\n'
BUSY = IDLE + b'vllm:num_requests_waiting{engine="1",model_name="m"} 3.0\n'


@dataclass
class Engine:
    """An engine that answers what it is told to; `hang` ends when the engine is left."""

    status: int = 200
    answer: bytes = b'{"text": "", "usage": {"type": "duration", "seconds": 1}}'
    is_hanging: bool = False
    pages: list[bytes] = field(default_factory=lambda: [IDLE])
    metrics_status: int = 200
    left: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    port: int = 0


@contextmanager
def serving(engine: Engine) -> Iterator[Engine]:
    """Serve an engine on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            engine.requests.append((self.path, self.headers["Authorization"], body))
            if engine.is_hanging:
                engine.left.wait(60)
                return
            self.reply(engine.status, engine.answer)

        def do_GET(self) -> None:
            engine.requests.append((self.path, None, b""))
            page = engine.pages.pop(0) if len(engine.pages) > 1 else engine.pages[0]
            self.reply(engine.metrics_status, page)

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    engine.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield engine
    finally:
        engine.left.set()
        server.shutdown()
        thread.join()
        server.server_close()


def run(script: str, port: int, *arguments: str, **environment: str):
    """Run a script as the kubelet would: alone, with nothing but the standard library."""
    return subprocess.run(
        [sys.executable, "-I", "-S", FILES / script, f"--port={port}", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def ready(port: int, timeout_s: float = 20, **environment: str):
    return run("ready.py", port, "--model=a/b c", f"--timeout-s={timeout_s}", **environment)


def test_an_engine_that_transcribes_is_ready():
    with serving(Engine()) as engine:
        done = ready(engine.port, VLLM_API_KEY="k")
    assert (done.returncode, done.stderr) == (0, "")
    ((path, key, body),) = engine.requests
    assert path == "/v1/audio/transcriptions"
    assert key == "Bearer k"
    assert b'name="model"\r\n\r\na/b c\r\n' in body
    wav = body[body.index(b"RIFF") : body.rindex(b"\r\n--")]
    with wave.open(io.BytesIO(wav)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16000)
        assert sound.getnframes() == 1600
        assert not any(sound.readframes(1600))


def test_no_key_is_sent_when_there_is_none():
    with serving(Engine()) as engine:
        assert ready(engine.port).returncode == 0
    assert engine.requests[0][1] is None


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (Engine(status=500, answer=b'{"error": "install vllm[audio]"}'), "500: "),
        (Engine(status=500, answer=b'{"error": "install vllm[audio]"}'), "install vllm[audio]"),
        (Engine(status=401, answer=b"no"), "401: no"),
        (Engine(answer=b'{"nothing": 1}'), "not a transcription"),
        (Engine(answer=b"[]"), "not a transcription"),
        (Engine(answer=b"<html>"), "not ready: "),
    ],
)
def test_an_engine_that_cannot_transcribe_is_not_ready_and_says_why(engine, words):
    with serving(engine):
        done = ready(engine.port)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_not_there_is_not_ready():
    done = ready(free_port())
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_busy_is_not_dead():
    with serving(Engine(is_hanging=True, pages=[BUSY])) as engine:
        assert ready(engine.port, timeout_s=1).returncode == 0


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (Engine(is_hanging=True), "idle by its own account"),
        (Engine(is_hanging=True, metrics_status=500), "nor from /metrics"),
    ],
)
def test_an_engine_that_hangs_is_not_ready(engine, words):
    with serving(engine):
        done = ready(engine.port, timeout_s=1)
    assert done.returncode == 1
    assert words in done.stderr


def test_an_engine_with_vllms_api_is_ready_and_drained(tmp_path):
    def command(port: int) -> list[str]:
        engine = [sys.executable, "-m", "tests.fake_engine", "--api-key", "k"]
        return [*engine, "--served-model-name", "a/b c", "--port", str(port)]

    environment = {"PYTHONPATH": str(ROOT / "src")}
    engine = Server(command, tmp_path / "log", "/health", free_port(), environment)
    with running([engine], timeout_s=60):
        done = ready(engine.port, VLLM_API_KEY="k")
        assert done.returncode == 0, done.stderr
        assert ready(engine.port, VLLM_API_KEY="other").returncode == 1
        assert drain(engine.port, at_most_s=50).returncode == 0


def drain(port: int, at_most_s: float):
    quick = ("--grace-s=0", "--quiet-s=0.2", "--poll-s=0.05")
    return run("drain.py", port, f"--at-most-s={at_most_s}", *quick)


def test_draining_waits_until_the_work_is_done():
    with serving(Engine(pages=[BUSY, IDLE, BUSY, BUSY, IDLE])) as engine:
        assert drain(engine.port, at_most_s=50).returncode == 0
        # The idle moment between the two was too short to count.
        assert len(engine.requests) > 5


def test_draining_ends_when_its_time_is_up():
    start = time.monotonic()
    with serving(Engine(pages=[BUSY])) as engine:
        assert drain(engine.port, at_most_s=1).returncode == 0
    assert time.monotonic() - start >= 1


def test_draining_ends_when_the_engine_is_gone():
    assert drain(free_port(), at_most_s=50).returncode == 0


def test_draining_ends_when_the_figures_make_no_sense():
    nonsense = Engine(pages=[b"vllm:num_requests_running{} many\n"])
    with serving(nonsense) as engine:
        assert drain(engine.port, at_most_s=50).returncode == 0


def test_the_scripts_arrive_in_the_container_as_they_are():
    (scripts,) = [
        each
        for each in of_kind(render("two-models"), "ConfigMap")
        if each["metadata"]["name"].endswith("-engine-scripts")
    ]
    assert scripts["data"].keys() == {"ready.py", "drain.py"}
    for name, text in scripts["data"].items():
        assert text.rstrip("\n") == (FILES / name).read_text().rstrip("\n")


def test_the_scripts_stand_on_the_standard_library_alone():
    for path in FILES.glob("*.py"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", Path(path), "--help"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
