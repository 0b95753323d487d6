"""Files as people have them, short and long, in every format: true lengths, all of the sound.

The engine decodes what it is given and tells its length, as vLLM does; whatever it is not given in
full is missing from the seconds that it has heard.
"""

import math
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.audio_files import KINDS, audio_folder
from tests.file_cases import CASES, FileCase
from tests.requests.parrots import Heard, Reply, parrot
from tests.requests.test_single import chunk, events, sse
from tests.routers import MODEL, RunningRouter, file, running_router
from tests.routers import field as plain

from vllm_router.local.audio import RATE_HZ, decode
from vllm_router.local.errors import ApiError

__all__ = ["audio_folder"]

SHORT_S, LONG_S = 7.5, 40.5
SETTINGS = {
    "split_longer_than_s": 30,
    "verify": True,
    "skip_silence": False,
    "api_key": "k",
    "key_audio_s_per_minute": 100_000,
}
USED = 'vllm_router_key_audio_seconds_total{key="key-1"}'
HEARD = f'vllm_router_audio_seconds_total{{model="{MODEL}"}}'
_CUE = re.compile(r"(\d+):(\d+):(\d+),(\d+) --> (\d+):(\d+):(\d+),(\d+)")


@dataclass(slots=True)
class Engine:
    """Counts the seconds that it is given, and says about as much as anyone would in them."""

    seconds: float = 0.0
    refused: list[int] = field(default_factory=list)

    async def length_s(self, audio: bytes) -> float:
        """Return how long a file's sound is.

        Raises:
            ApiError: It cannot be decoded.
        """
        return len(decode(audio)) / RATE_HZ

    async def __call__(self, heard: Heard) -> Reply:
        try:
            length_s = await self.length_s(heard.audio)
        except ApiError as error:
            self.refused.append(heard.number)
            return 400, {"error": {"message": str(error)}}
        self.seconds += length_s
        rng = random.Random(heard.number)
        words = ["".join(rng.choices("abcdeinorstu", k=5)) for _ in range(round(2 * length_s) + 1)]
        if heard.fields.get("stream") == "true":
            return 200, sse(chunk(" ".join(words), "stop"))
        usage = {"type": "duration", "seconds": math.ceil(length_s)}
        return 200, {"text": " ".join(words), "usage": usage}


def cues(srt: str) -> list[tuple[float, float]]:
    """Return (start, end) of each cue, in seconds."""
    found = []
    for numbers in _CUE.findall(srt):
        a, b, c, d, e, f, g, h = map(int, numbers)
        found.append((a * 3600 + b * 60 + c + d / 1000, e * 3600 + f * 60 + g + h / 1000))
    return found


async def ask(router: RunningRouter, data: bytes, response_format: str, *more: bytes):  # type: ignore[no-untyped-def]
    form = plain("response_format", response_format)
    return await router.upload(
        plain("model", MODEL), form, *more, file(data, "a"), Authorization="Bearer k"
    )


def test_every_file_has_its_row_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    for what in [case.what for case in CASES.values()] + [f"`{kind}`" for kind in KINDS]:
        assert f"| {what} |" in text, "run scripts/formats.py"


@pytest.mark.parametrize("name", CASES)
async def test_a_file_is_transcribed_to_its_end(name: str, audio_folder: Path) -> None:
    case = CASES[name]
    engine = Engine()
    async with parrot(engine) as url, running_router(url, **SETTINGS) as router:
        before = dict.fromkeys((USED, HEARD), 0.0)
        for seconds in (SHORT_S, LONG_S):
            data, length_s = case.make(audio_folder, seconds), case.length_s(seconds)
            engine.seconds = 0.0
            answers = [await ask(router, data, kind) for kind in ("json", "verbose_json", "srt")]
            answers.append(await ask(router, data, "json", plain("stream", "true")))
            if case.outcome == "refused":
                assert [answer.status_code for answer in answers] == [400] * 4
                assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_audio"}
                continue
            assert [answer.status_code for answer in answers] == [200] * 4, answers[0].text
            for answer in answers[:3]:
                assert ("x-audio-warning" in answer.headers) == (case.outcome == "damaged")
            check(case, answers, length_s)
            # Everything was heard, each time.
            assert engine.seconds >= 4 * (case.sound_s(seconds) - 0.65)
            metrics = await router.metrics()
            for name in before:
                counted_s, before[name] = metrics[name] - before[name], metrics[name]
                assert 4 * length_s - 2.7 <= counted_s <= 4 * length_s + 2


def check(case: FileCase, answers: list, length_s: float) -> None:  # type: ignore[type-arg]
    """Check what four answers tell of a file's times."""
    short, verbose = answers[0].json(), answers[1].json()
    done = events(answers[3].text)[-1]
    # Of what was cut short a page or a frame may be missing.
    off_s = 0.65 if case.outcome == "damaged" else case.slack_s
    assert verbose["duration"] == pytest.approx(length_s, abs=off_s)
    assert verbose["usage"]["seconds"] == math.ceil(verbose["duration"])
    assert verbose["usage"]["seconds"] - 1.3 <= math.ceil(length_s)
    # The same in every format.
    assert short["usage"] == done["usage"] == verbose["usage"]
    # A stream has sent its headers when damage shows at the end.
    assert ("warning" in done) == (case.outcome == "damaged")
    times = [(part["start"], part["end"]) for part in verbose["segments"]]
    for first, last in (
        (times[0], times[-1]),
        (cues(answers[2].text)[0], cues(answers[2].text)[-1]),
    ):
        assert case.starts_s - 0.3 <= first[0] <= case.starts_s + 2.2
        # Two seconds of sound alternate with one of almost none.
        assert length_s - 2.5 <= last[1] <= verbose["duration"] + 0.002
