"""One audio API over engines that have half of it: every format, streamed or not."""

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pysubs2
import pytest
from tests.audio_files import make_kind
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import (
    MODEL,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    RunningRouter,
    field,
    file,
    running_router,
)

from vllm_router.audio.wav import silence

AUDIO = silence(10.0)
PATHS = (TRANSCRIPTIONS, TRANSLATIONS)


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


@pytest.fixture
async def router(engine: SimulatedHandle) -> AsyncIterator[RunningRouter]:
    async with running_router(engine) as router:
        yield router


def asking(response_format: str, *more: bytes, audio: bytes = AUDIO) -> list[bytes]:
    return [field("model", MODEL), field("response_format", response_format), *more, file(audio)]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("path", PATHS)
async def test_text_is_bare_words(router: RunningRouter, path: str) -> None:
    words = (await router.upload(*asking("json"), path=path)).json()["text"]
    answer = await router.upload(*asking("text"), path=path)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.strip() == words.strip()
    assert answer.headers["x-engine-id"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", PATHS)
async def test_verbose_json_has_all_of_its_fields(router: RunningRouter, path: str) -> None:
    answer = (await router.upload(*asking("verbose_json"), path=path)).json()
    assert answer["task"] == ("transcribe" if path == TRANSCRIPTIONS else "translate")
    assert isinstance(answer["duration"], float)
    assert answer["language"]
    # Nobody has looked where somebody speaks: the words take the whole time.
    (segment,) = answer["segments"]
    assert (segment["id"], segment["start"], segment["end"]) == (0, 0.0, 10.0)
    assert answer["usage"] == {"type": "duration", "seconds": 10}
    assert " ".join(s["text"].strip() for s in answer["segments"]) == answer["text"].strip()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["srt", "vtt"])
async def test_subtitles_are_ones_that_players_read(
    router: RunningRouter, kind: str, path: str
) -> None:
    answer = await router.upload(*asking(kind), path=path)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    read = pysubs2.SSAFile.from_string(answer.text, format_=kind)
    spoken = " ".join(cue.plaintext.replace("\n", " ") for cue in read)
    words = (await router.upload(*asking("json"), path=path)).json()["text"]
    assert spoken == words.strip()
    assert all(a.end <= b.start for a, b in itertools.pairwise(read))
    assert max(len(line) for cue in read for line in cue.plaintext.split("\n")) <= 42


async def test_segments_may_be_asked_for(router: RunningRouter, engine: SimulatedHandle) -> None:
    more = field("timestamp_granularities[]", "segment")
    answer = await router.upload(*asking("verbose_json", more))
    assert answer.status_code == 200
    assert len(answer.json()["segments"]) == 1
    [logged] = engine.log.audio()
    assert ("response_format", b"json") in logged.fields
    assert ("timestamp_granularities[]", b"segment") in logged.fields


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["json", "text", "verbose_json", "srt", "vtt"])
async def test_the_deltas_of_a_stream_are_its_text(
    router: RunningRouter, kind: str, path: str
) -> None:
    whole = await router.upload(*asking(kind), path=path)
    answer = await router.upload(*asking(kind, field("stream", "true")), path=path)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *before, done = events(answer.text)
    assert done["type"] == "transcript.text.done"
    deltas = [event["delta"] for event in before if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == done["text"]
    assert done["usage"]["seconds"] == 10
    expected = whole.text if kind in ("srt", "vtt", "text") else whole.json()["text"]
    assert done["text"].strip() == expected.strip()
    if kind == "verbose_json":
        segments = [event for event in before if event["type"] == "transcript.text.segment"]
        assert [one["id"] for one in segments] == ["0"]
        assert (segments[0]["start"], segments[0]["end"]) == (0.0, 10.0)


async def test_segments_of_a_stream_come_when_asked_for(router: RunningRouter) -> None:
    more = [field("stream", "true"), field("timestamp_granularities[]", "segment")]
    answer = await router.upload(*asking("json", *more))
    kinds = [event["type"] for event in events(answer.text)]
    assert kinds.count("transcript.text.segment") == 1


@pytest.mark.parametrize("by", ["header", "setting"])
@pytest.mark.parametrize("kind", ["json", "text", "verbose_json", "srt", "vtt"])
async def test_the_engines_own_events_may_be_had(
    engine: SimulatedHandle, kind: str, by: str
) -> None:
    async with running_router(
        engine, stream_format="vllm" if by == "setting" else "openai"
    ) as router:
        headers = {"X_Stream_Format": "vllm"} if by == "header" else {}
        answer = await router.upload(*asking(kind, field("stream", "true")), **headers)
        assert answer.text.strip().endswith("data: [DONE]")
        chunks = events(answer.text)
        assert {chunk["object"] for chunk in chunks} == {"transcription.chunk"}
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        words = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert "Window 0 of" in words


async def test_an_engines_refusal_of_a_stream_comes_as_its_status(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    for kind in ("json", "srt"):
        await engine.order(status=400)
        answer = await router.upload(*asking(kind, field("stream", "true")))
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "a fault was ordered"


@pytest.mark.parametrize("kind", ["json", "srt"])
async def test_a_failed_engine_is_a_status_while_nothing_was_streamed(
    router: RunningRouter, engine: SimulatedHandle, kind: str
) -> None:
    await engine.order(status=503)
    answer = await router.upload(*asking(kind, field("stream", "true")))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_failed"


async def test_a_format_that_nobody_knows_is_the_engines_to_refuse(router: RunningRouter) -> None:
    answer = await router.upload(*asking("diarized_json"))
    assert answer.status_code == 400
    assert "response_format" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "kind",
    ["wav_s16", "wav_u8_8k", "wav_s24_stereo", "wav_float", "mp3_vbr", "flac", "opus", "m4a",
     "webm_opus", "video_mp4"],
)  # fmt: skip
async def test_every_container_is_taken_whole_and_its_length_known(
    router: RunningRouter, kind: str, tmp_path: Path
) -> None:
    audio = make_kind(tmp_path, kind, 3.0).read_bytes()
    answer = await router.upload(*asking("verbose_json", audio=audio))
    assert answer.status_code == 200
    assert answer.json()["duration"] == pytest.approx(3.0, abs=0.15)
