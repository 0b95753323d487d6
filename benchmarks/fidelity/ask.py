"""One recording sent to an engine or to the router, in one of the formats they answer in."""

import json
import math
import time
from dataclasses import dataclass

import httpx
from tests.speech.cues import Cue, read_subtitles
from tests.speech.recordings import Recording

# Two busy cores take an hour's audio in less.
TIMEOUT_S = 3600.0
# Of an engine that cuts by itself.
WINDOW_S = 30.0
WAYS = ("json", "text", "verbose_json", "srt", "vtt", "stream")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    `cues` is None where the format has no times, `windows` where nobody counts them, and `refusal`
    tells why there are no words at all.
    """

    text: str
    cues: tuple[Cue, ...] | None
    windows: float | None
    seconds: float
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """An engine or a router that is asked; only a router counts the windows it spends."""

    url: str
    model: str
    is_router: bool

    def ask(self, recording: Recording, way: str) -> Answer:
        """Send a recording and read the answer."""
        before = self._windows_spent()
        began = time.monotonic()
        text, cues, refusal = self._transcribe(recording, way)
        seconds = time.monotonic() - began
        after = self._windows_spent()
        if before is None or after is None:
            windows = None if refusal else float(math.ceil(recording.duration_s / WINDOW_S))
        else:
            windows = after - before
        return Answer(text, cues, windows, seconds, refusal)

    def _transcribe(
        self, recording: Recording, way: str
    ) -> tuple[str, tuple[Cue, ...] | None, str]:
        fields = {"stream": "true"} if way == "stream" else {"response_format": way}
        response = httpx.post(
            f"{self.url}/v1/audio/transcriptions",
            data={"model": self.model, **fields},
            files={"file": (recording.name, recording.audio)},
            timeout=TIMEOUT_S,
        )
        if response.status_code != 200:
            return "", None, f"{response.status_code}"
        if way == "stream":
            return read_stream(response.text), None, ""
        if way in ("srt", "vtt"):
            listed = tuple(read_subtitles(response.text, way))
            return " ".join(cue.text for cue in listed), listed, ""
        if way == "text" and self.is_router:
            return response.text, None, ""
        body = response.json()
        segments = body.get("segments")
        if segments is None:
            return body["text"], None, ""
        return body["text"], tuple(Cue(s["start"], s["end"], s["text"]) for s in segments), ""

    def _windows_spent(self) -> float | None:
        if not self.is_router:
            return None
        page = httpx.get(f"{self.url}/metrics", timeout=TIMEOUT_S).text
        return read_windows(page)


def first_model(url: str) -> str:
    """Return the name under which a server has its model."""
    listed = httpx.get(f"{url}/v1/models", timeout=60.0).raise_for_status().json()
    return str(listed["data"][0]["id"])


def read_stream(body: str) -> str:
    """Return the text of a stream of OpenAI's events; empty if it broke off."""
    for line in reversed(body.splitlines()):
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            if event.get("type") == "transcript.text.done":
                return str(event["text"])
    return ""


def read_windows(page: str) -> float:
    """Return the windows of 30 s that all engines have been given, from a router's metrics."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("vllm_router_engine_windows_total{")
    )
