"""A router in front of three engines with troubles, under load of every kind, and a Prometheus.

Everything is a process of its own on the loopback address; nothing is left when the `with` ends.
"""

import asyncio
import contextlib
import random
import sys
import threading
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.clients.servers import ROOT, Server, free_port, router, running

MODEL = "openai/whisper-small"
KEY = "secret"
SAMPLES = sorted((ROOT / "speech_model" / "samples").glob("*.wav"))
RULES = ROOT / "helm" / "rules" / "vllm-router.yaml"
JOB = "whisper"


def long_audio(seconds: float) -> bytes:
    """Return a WAV of many sentences one after the other."""
    frames = []
    for path in SAMPLES:
        with wave.open(str(path)) as source:
            assert source.getframerate() == 16_000
            frames.append(source.readframes(source.getnframes()))
    pcm = b"".join(frames)
    pcm *= int(seconds * 32_000 / len(pcm)) + 1
    size = int(seconds * 16_000) * 2
    head = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt "
    head += (16).to_bytes(4, "little") + (1).to_bytes(2, "little") + (1).to_bytes(2, "little")
    head += (16_000).to_bytes(4, "little") + (32_000).to_bytes(4, "little")
    head += (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
    return head + b"data" + size.to_bytes(4, "little") + pcm[:size]


class Load:
    """Clients of every kind, in a thread of their own, until told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        short = SAMPLES[0].read_bytes()
        long = long_audio(95)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=60) as client:

            async def post(
                audio: bytes,
                *,
                route: str = "transcriptions",
                patience_s: float = 60,
                **fields: str,
            ) -> None:
                with contextlib.suppress(httpx.TransportError):
                    await client.post(
                        f"/v1/audio/{route}",
                        files={"file": ("a.wav", audio)},
                        data={"model": MODEL, **fields},
                        timeout=patience_s,
                    )

            async def shorts() -> None:
                while not self._stop.is_set():
                    await post(short, route=random.choice(("transcriptions", "translations")))
                    await post(short, stream="true")
                    # Some requests a second are enough for every series.
                    await asyncio.sleep(0.2)

            async def others() -> None:
                while not self._stop.is_set():
                    await post(long)
                    await post(b"not audio at all")
                    await post(short, model="nobody")
                    await post(long, patience_s=0.2)
                    await asyncio.sleep(0.2)

            await asyncio.gather(shorts(), shorts(), shorts(), others())


@dataclass(frozen=True, slots=True)
class Observed:
    """What the tests look at.

    Attributes:
        router: The router.
        engines: Its engines; the third dies while the load runs.
        prometheus: Asks every half second.
    """

    router: Server
    engines: tuple[Server, ...]
    prometheus: Server

    def ask(self, path: str, **parameters: str) -> Any:
        """Return Prometheus' answer to a question of its API."""
        answer = httpx.get(f"{self.prometheus.url}/api/v1/{path}", params=parameters, timeout=10)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        series: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return series


def engine(log: Path, *arguments: str) -> Server:
    """Describe a simulated engine."""
    return Server(
        command=lambda port: [
            *(sys.executable, "-m", "tests.fake_engine", "--port", str(port)),
            *("--host", "127.0.0.1", "--served-model-name", MODEL, "--time-scale", "2", *arguments),
        ],
        log=log,
        ready_path="/health",
        port=free_port(),
        environment={"PYTHONPATH": str(ROOT / "src")},
    )


def prometheus(folder: Path, target: str) -> Server:
    """Describe a Prometheus that scrapes a router and carries out the chart's rules."""
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}\n"
        f"rule_files: [{RULES}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: {JOB}, static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    return Server(
        command=lambda port: [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        ],
        log=folder / "prometheus.log",
        ready_path="/-/ready",
        port=free_port(),
    )


@contextlib.contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """Run all of it."""
    engines = (
        engine(folder / "1.log"),
        engine(folder / "2.log", "--faults", "status=503,rate=0.2"),
        engine(folder / "3.log"),
    )
    with running(engines, timeout_s=60):
        front = router(
            [each.url for each in engines],
            folder / "router.log",
            *("--api-key", KEY, "--engine-stats-interval", "0.5", "--decode-workers", "1"),
            *("--static-backend-health-check-interval", "0.5"),
        )
        watcher = prometheus(folder, front.url.removeprefix("http://"))
        with running([front, watcher], timeout_s=60), Load(front.url):
            yield Observed(front, engines, watcher)
