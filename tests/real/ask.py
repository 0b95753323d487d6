"""What the real tests ask of a router or an engine, without a client library's retries."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx
from tests.real.engines import MODEL
from tests.speech.recordings import Recording

# Two engines on two busy cores transcribe ten minutes in well under a minute.
TIMEOUT_S = 600.0


def transcribe(url: str, recording: Recording, **fields: str) -> httpx.Response:
    """Post a recording and return a response that is known to be a success."""
    response = httpx.post(
        f"{url}/v1/audio/transcriptions",
        data={"model": MODEL, **fields},
        files={"file": (recording.name, recording.audio)},
        timeout=TIMEOUT_S,
    )
    assert response.status_code == 200, response.text
    return response


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer: its events, when words first came, and when all had come, in seconds."""

    events: list[dict[str, Any]]
    first_s: float
    total_s: float

    @property
    def deltas(self) -> str:
        """The text put together from its pieces."""
        return "".join(e["delta"] for e in self.events if e["type"] == "transcript.text.delta")

    @property
    def final(self) -> str:
        """The whole text as the last event has it."""
        assert self.events[-1]["type"] == "transcript.text.done", self.events[-1]
        return str(self.events[-1]["text"])


def stream(url: str, recording: Recording, **fields: str) -> Streamed:
    """Post a recording and read the events as they come, counting from the request's start."""
    events: list[dict[str, Any]] = []
    first_s: float | None = None
    start = time.monotonic()
    with httpx.stream(
        "POST",
        f"{url}/v1/audio/transcriptions",
        data={"model": MODEL, "stream": "true", **fields},
        files={"file": (recording.name, recording.audio)},
        timeout=TIMEOUT_S,
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if first_s is None and event.get("delta", "").strip():
                first_s = time.monotonic() - start
            events.append(event)
    assert first_s is not None, "no words came"
    return Streamed(events, first_s, time.monotonic() - start)


def windows_spent(router_url: str) -> float:
    """Return how many windows of 30 s the router's engines have been given so far."""
    page = httpx.get(f"{router_url}/metrics", timeout=TIMEOUT_S).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("vllm_router_engine_windows_total{")
    )
