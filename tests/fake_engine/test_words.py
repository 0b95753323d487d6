"""The words of simulated engines."""

import hashlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.fake_engine.words import window_text

from vllm_router.audio.wav import silence

PATH = "/v1/audio/transcriptions"


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(time_scale=1000) as handle:
        yield handle


@pytest.fixture
async def client(engine: SimulatedHandle) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url, timeout=30) as one:
        yield one


async def post(client: httpx.AsyncClient, audio_s: float = 1.0, **fields: str) -> httpx.Response:
    upload = {"file": ("a.wav", silence(audio_s), "audio/wav")}
    return await client.post(PATH, files=upload, data=fields)


async def test_each_window_names_itself(client: httpx.AsyncClient) -> None:
    body = (await post(client, 75.0, response_format="verbose_json", language="de")).json()
    digest = hashlib.sha256(silence(75.0)).hexdigest()
    assert body["duration"] == 75.0
    assert body["language"] == "de"
    lengths = (30.0, 30.0, 15.0)
    texts = [
        sentence
        for index, length_s in enumerate(lengths)
        for sentence in window_text(digest, index, length_s=length_s)
    ]
    # As many words as people say in the time.
    assert [len(sentence.split()) for sentence in texts] == [36, 32, 36, 32, 21, 17]
    assert [segment["text"] for segment in body["segments"]] == texts
    assert body["segments"][-1]["end"] == 75.0
    ends = [segment["end"] for segment in body["segments"]]
    starts = [segment["start"] for segment in body["segments"]]
    assert starts[1:] == ends[:-1]


async def test_the_words_are_the_same_on_every_engine(client: httpx.AsyncClient) -> None:
    async with (
        serve_simulated(time_scale=1000) as other,
        httpx.AsyncClient(base_url=other.url) as second,
    ):
        assert (await post(client)).text == (await post(second)).text


async def test_a_stream_has_the_words_of_the_json(client: httpx.AsyncClient) -> None:
    whole = (await post(client, 40.0)).json()["text"]
    text = (await post(client, 40.0, stream="true")).text
    lines = [line[6:] for line in text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"]["content"] for line in lines[:-1]]
    assert "".join(deltas) == whole


async def test_translations_say_so_and_have_no_usage(client: httpx.AsyncClient) -> None:
    upload = {"file": ("a.wav", silence(1.0), "audio/wav")}
    body = (await client.post("/v1/audio/translations", files=upload)).json()
    assert list(body) == ["text"]
    assert "Translated window 0" in body["text"]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"not audio", "Invalid or corrupted"), (silence(0.1)[:44], "Invalid or corrupted")],
)
async def test_what_is_no_audio_is_refused(
    client: httpx.AsyncClient, data: bytes, words: str
) -> None:
    answer = await client.post(PATH, files={"file": ("a.wav", data)})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_audio_over_the_engines_limits_is_refused(client: httpx.AsyncClient) -> None:
    answer = await post(client, 601.0)
    assert answer.status_code == 400
    assert "maximum allowed duration of 600s" in answer.json()["error"]["message"]
    answer = await client.post(PATH, files={"file": ("a.wav", bytes(26 << 20))})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "audio_filesize_mb"
