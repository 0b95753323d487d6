"""The CPU engine over HTTP, with the speech model."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from tests.local.recordings import SPEECH_MODEL, samples, word_errors
from tests.speech import people
from tests.speech.weights import model_folder

from vllm_router.audio.wav import pcm16_wav
from vllm_router.local.api import Api
from vllm_router.local.real import RealListener
from vllm_router.local.serving import Port
from vllm_router.local.sound import decode
from vllm_router.local.whisper import Whisper, find_model

PATH = "/v1/audio/transcriptions"


@dataclass
class Engine:
    url: str
    api: Api
    listener: RealListener


async def served(model: Whisper) -> AsyncIterator[Engine]:
    listener = RealListener(model)
    api = Api(listener, "openai/whisper-small")
    port = Port(api, "127.0.0.1", 0)
    await port.listen()
    yield Engine(f"http://127.0.0.1:{port.port}", api, listener)
    await port.shut()
    listener.close()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async for each in served(Whisper(find_model(str(SPEECH_MODEL / "ct2")))):
        yield each


@pytest.fixture
async def multilingual() -> AsyncIterator[Engine]:
    async for each in served(Whisper(model_folder("base"), threads=2)):
        yield each


@pytest.fixture
async def english_only() -> AsyncIterator[Engine]:
    async for each in served(Whisper(model_folder("tiny.en"), threads=2)):
        yield each


def long_recording() -> tuple[bytes, str]:
    """Return half a minute and more: recordings one after the other, and their words."""
    chosen = samples()[4:8]
    pcm = [(decode(one.path.read_bytes()) * 32767).astype("<i2") for one in chosen]
    return pcm16_wav(np.concatenate(pcm).tobytes()), " ".join(one.text for one in chosen)


async def post(engine: Engine, data: bytes, path: str = PATH, **fields: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        files = {"file": ("a.wav", data, "audio/wav")}
        return await client.post(engine.url + path, files=files, data=fields)


async def test_every_format_has_the_same_words(engine: Engine) -> None:
    sample = samples()[1]
    data = sample.path.read_bytes()
    for fields in ({}, {"response_format": "text"}, {"response_format": "verbose_json"}):
        body = (await post(engine, data, **fields)).json()
        assert word_errors(body["text"], sample.text) == 0
    assert body["language"] == "en"
    assert abs(body["duration"] - sample.duration_s) < 0.01
    body = (await post(engine, data, "/v1/audio/translations", language="en")).json()
    assert list(body) == ["text"]


async def test_a_stream_is_the_engines_and_has_the_words(engine: Engine) -> None:
    sample = samples()[1]
    text = (await post(engine, sample.path.read_bytes(), stream="true", language="en")).text
    events = [line[6:] for line in text.split("\n") if line]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert choices[-1]["finish_reason"] == "stop"
    heard = "".join(choice["delta"]["content"] for choice in choices)
    assert word_errors(heard, sample.text) == 0


async def test_over_30_s_is_cut_and_put_together(engine: Engine) -> None:
    data, expected = long_recording()
    body = (await post(engine, data, response_format="verbose_json", language="en")).json()
    assert body["duration"] > 50
    # Cuts are where vLLM makes them, in the last second, so a word may be lost at each.
    assert word_errors(body["text"], expected) <= 4
    starts = [segment["start"] for segment in body["segments"]]
    assert starts == sorted(starts)
    assert {segment["seek"] for segment in body["segments"]} > {0, 29} or len(starts) > 2
    assert engine.api.figures.succeeded == 1


async def test_no_audio_is_refused(engine: Engine) -> None:
    answer = await post(engine, b"not audio")
    assert answer.status_code == 400
    assert "Invalid or corrupted audio data" in answer.json()["error"]["message"]


async def test_a_client_that_leaves_takes_its_waiting_windows_along(engine: Engine) -> None:
    data, _ = long_recording()
    task = asyncio.create_task(post(engine, data, language="en"))
    while not engine.listener.waiting:
        await asyncio.sleep(0.005)
    task.cancel()
    while engine.api.in_hand:
        await asyncio.sleep(0.005)
    assert engine.listener.waiting == 0
    while engine.listener.running:
        await asyncio.sleep(0.005)
    assert (await post(engine, samples()[0].path.read_bytes())).status_code == 200


@pytest.mark.parametrize(("name", "language"), [("french.aiff", "fr"), ("ru.wav", "ru")])
async def test_a_language_that_was_not_given_is_found(
    multilingual: Engine, name: str, language: str
) -> None:
    recording = people.spoken(name)
    body = (await post(multilingual, recording.audio, response_format="verbose_json")).json()
    assert body["language"] == language
    assert body["segments"][-1]["end"] == pytest.approx(recording.sentences[0].end_s, abs=0.5)
    heard = await post(multilingual, recording.audio)
    told = await post(multilingual, recording.audio, language=language)
    assert heard.json() == told.json()


async def test_a_language_the_model_was_not_taught_is_refused(multilingual: Engine) -> None:
    answer = await post(multilingual, samples()[0].path.read_bytes(), language="yue")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "language"


async def test_an_english_only_model_takes_every_language_for_english(
    english_only: Engine,
) -> None:
    recording = people.spoken("jfk.flac")
    fields = {"response_format": "verbose_json", "language": "fr"}
    body = (await post(english_only, recording.audio, **fields)).json()
    assert word_errors(body["text"], recording.text) == 0
    assert body["language"] == "en"
