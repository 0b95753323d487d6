"""The audio routes on a real socket: with the speech model, OpenAI's models, and stand-ins."""

import asyncio
import json
from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.local.models import BrokenModel, HeldModel, QuickModel
from tests.local.recordings import SPEECH_MODEL, samples, word_errors
from tests.local.serving import TRANSCRIPTIONS, TRANSLATIONS, Engine, serving
from tests.speech import people
from tests.speech.weights import model_folder

from vllm_router.audio.wav import pcm16_wav, silence
from vllm_router.local.audio import decode
from vllm_router.local.whisper import Whisper, find_model


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with serving(Whisper(find_model(str(SPEECH_MODEL / "ct2")))) as each:
        yield each


@pytest.fixture
async def multilingual() -> AsyncIterator[Engine]:
    async with serving(Whisper(model_folder("base"), threads=2)) as each:
        yield each


@pytest.fixture
async def english_only() -> AsyncIterator[Engine]:
    async with serving(Whisper(model_folder("tiny.en"), threads=2)) as each:
        yield each


def long_recording() -> tuple[bytes, str]:
    """Return nearly a minute: recordings one after the other, and their words."""
    chosen = samples()[4:8]
    pcm = [(decode(one.path.read_bytes()) * 32767).astype("<i2") for one in chosen]
    return pcm16_wav(np.concatenate(pcm).tobytes()), " ".join(one.text for one in chosen)


async def test_every_format_has_the_same_words(engine: Engine) -> None:
    sample = samples()[1]
    data = sample.path.read_bytes()
    for fields in ({}, {"response_format": "text"}, {"response_format": "verbose_json"}):
        body = (await engine.post(data, **fields)).json()
        assert word_errors(body["text"], sample.text) == 0
    assert body["language"] == "en"
    assert abs(body["duration"] - sample.duration_s) < 0.01
    body = (await engine.post(data, TRANSLATIONS, language="en")).json()
    assert list(body) == ["text"]


async def test_a_stream_has_vllms_events_and_the_words(engine: Engine) -> None:
    sample = samples()[1]
    answer = await engine.post(sample.path.read_bytes(), stream="true", language="en")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [line[6:] for line in answer.text.split("\n") if line]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert choices[-1]["finish_reason"] == "stop"
    text = "".join(choice["delta"]["content"] for choice in choices)
    assert word_errors(text, sample.text) == 0


async def test_over_30_s_is_transcribed_in_chunks(engine: Engine) -> None:
    data, expected = long_recording()
    body = (await engine.post(data, response_format="verbose_json", language="en")).json()
    assert body["duration"] > 50
    # Cuts are where vLLM makes them, in the last second, so a word may be lost at each.
    assert word_errors(body["text"], expected) <= 4
    starts = [segment["start"] for segment in body["segments"]]
    assert starts == sorted(starts)
    assert {segment["seek"] for segment in body["segments"]} > {0, 29} or len(starts) > 2


async def test_a_file_that_is_not_audio_is_refused(engine: Engine) -> None:
    answer = await engine.post(b"not audio")
    assert answer.status_code == 400
    assert "Invalid or corrupted audio data" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("name", "language"), [("french.aiff", "fr"), ("ru.wav", "ru")])
async def test_the_language_is_detected_unless_it_is_given(
    multilingual: Engine, name: str, language: str
) -> None:
    recording = people.spoken(name)
    body = (await multilingual.post(recording.audio, response_format="verbose_json")).json()
    assert body["language"] == language
    assert body["segments"][-1]["end"] == pytest.approx(recording.sentences[0].end_s, abs=0.5)
    detected = await multilingual.post(recording.audio)
    given = await multilingual.post(recording.audio, language=language)
    assert detected.json() == given.json()


async def test_a_language_that_the_model_does_not_know_is_refused(multilingual: Engine) -> None:
    answer = await multilingual.post(samples()[0].path.read_bytes(), language="yue")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "language"


async def test_an_english_only_model_takes_every_language_for_english(
    english_only: Engine,
) -> None:
    recording = people.spoken("jfk.flac")
    fields = {"response_format": "verbose_json", "language": "fr"}
    body = (await english_only.post(recording.audio, **fields)).json()
    assert word_errors(body["text"], recording.text) == 0
    assert body["language"] == "en"


async def test_the_options_reach_the_model() -> None:
    async with serving(QuickModel()) as engine:
        data = silence(31.0)
        told = await engine.post(data, TRANSLATIONS, language="en", prompt="please")
        assert told.json() == {"text": " translate en please at 0  translate en please at 29"}
        detected = await engine.post(data)
        assert detected.json()["text"].startswith(" transcribe de  at 0")
        assert detected.json()["usage"] == {"type": "duration", "seconds": 31}


async def test_the_request_id_names_the_stream() -> None:
    fields = ("stream", "stream_include_usage", "stream_continuous_usage_stats")
    async with serving(QuickModel()) as engine:
        engine.client.headers["X-Request-Id"] = "mine"
        answer = await engine.post(silence(31.0), **dict.fromkeys(fields, "true"))
    assert '"id":"transcribe-mine"' in answer.text
    events = [line for line in answer.text.split("\n") if line and "[DONE]" not in line]
    usages = [json.loads(event[6:])["usage"]["completion_tokens"] for event in events]
    # Two chunks of four words, each with an event at its end, and one event for all.
    assert usages == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 8]


async def test_an_upload_of_many_mb_is_read_whole() -> None:
    async with serving(QuickModel()) as engine:
        answer = await engine.post(silence(590.0, rate_hz=16_000), response_format="verbose_json")
    assert answer.json()["duration"] == 590.0


async def test_a_model_that_fails_in_a_stream_ends_it_with_an_error() -> None:
    async with serving(BrokenModel()) as engine:
        text = (await engine.post(silence(31.0), language="en", stream="true")).text
        assert '"content":" one"' in text
        assert '"code": 500' in text
        assert text.endswith("data: [DONE]\n\n")
        assert "vllm:request_success_total" in (await engine.client.get("/metrics")).text


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}])
async def test_a_client_that_leaves_takes_its_waiting_chunks_along(fields: dict[str, str]) -> None:
    model = HeldModel()
    async with serving(model) as engine:
        held = asyncio.create_task(engine.post(silence(1.0), language="en"))
        while not engine.transcriber.running:
            await asyncio.sleep(0.005)
        task = asyncio.create_task(engine.post(silence(100.0), language="en", **fields))
        while not engine.transcriber.waiting:
            await asyncio.sleep(0.005)
        task.cancel()
        while (await engine.client.get("/load")).json() != {"server_load": 1}:
            await asyncio.sleep(0.005)
        assert engine.transcriber.waiting == 0
        model.release.set()
        assert (await held).status_code == 200
        page = (await engine.client.get("/metrics")).text
    assert 'finished_reason="abort",model_name="openai/whisper-small"} 1.0' in page
    assert 'finished_reason="stop",model_name="openai/whisper-small"} 1.0' in page


async def test_a_client_may_leave_in_the_upload() -> None:
    async with serving(QuickModel()) as engine:
        port = engine.client.base_url.port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
        writer.write(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await engine.post(silence(1.0))).status_code == 200
