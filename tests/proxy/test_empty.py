"""Answers without a word: counted where there was something to hear, in every way to answer."""

import json
from typing import Any, cast

import numpy as np
import pytest
from tests.end_to_end.test_long import talk
from tests.proxy.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, field, file, running_router, until

from vllm_router.outbound.answer import Answer
from vllm_router.proxy.empty import LONGEST_BYTES, is_empty
from vllm_router.wire.wav import pcm16_wav, silence

COUNT = f'vllm_router_empty_transcripts_total{{model="{MODEL}"}}'
JSON = (b"content-type", b"application/json; charset=utf-8")


def loud(seconds: float) -> bytes:
    """Return three seconds of sound, two of silence, and so on."""
    rng = np.random.default_rng(5)
    samples = rng.normal(0, 3000, round(seconds * 16_000))
    samples[(np.arange(len(samples)) // 16_000) % 5 >= 3] = 0
    return pcm16_wav(samples.astype("<i2").tobytes())


def answer(body: bytes | None, status: int = 200, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(cast(Any, None), status, list(headers), body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"text":""}',
        b'{"text": ""}',
        b'{"text": " ", "usage": {"type": "duration", "seconds": 3}}',
        b'{"task":"transcribe","duration":"3.0","text":"","segments":[]}',
    ],
)
def test_json_without_a_word_is_empty(body: bytes) -> None:
    assert is_empty(answer(body, 200, JSON))


@pytest.mark.parametrize(
    "body", [b'{"text":"a"}', b'{"text": "\\u00e4"}', b"{}", b'{"text":null}', b"", None]
)
def test_other_json_is_not(body: bytes | None) -> None:
    assert not is_empty(answer(body, 200, JSON))


def test_text_of_nothing_but_space_is_empty() -> None:
    assert is_empty(answer(b"\n", 200, (b"content-type", b"text/plain")))
    assert not is_empty(answer(b"a\n", 200, (b"content-type", b"text/plain")))


def test_refusals_and_long_answers_are_not_looked_into() -> None:
    assert not is_empty(answer(b'{"text":""}', 400, JSON))
    assert not is_empty(answer(b'{"text":""}'.ljust(LONGEST_BYTES + 1), 200, JSON))


async def says_nothing(heard: Heard) -> Reply:
    if heard.fields.get("stream") == "true":
        delta = {"object": "transcription.chunk", "choices": [{"delta": {"content": ""}}]}
        end = {**delta, "choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}
        events = "".join(f"data: {each}\n\n" for each in (*map(json.dumps, (delta, end)), "[DONE]"))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        return 200, head + events.encode()
    if heard.fields.get("response_format") == "text":
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n\n"
        return 200, head
    return 200, {**verbose(""), "segments": []}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": "json"},
        {"response_format": "verbose_json"},
        {"response_format": "text"},
        {"response_format": "srt"},
        {"stream": "true"},
        {"stream": "true", "response_format": "vtt"},
    ],
    ids=str,
)
async def test_an_empty_answer_to_sound_is_counted_and_logged(
    asked: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    fields = [field(name, value) for name, value in asked.items()]
    async with parrot(says_nothing) as url, running_router(url) as router:
        answer = await router.upload(field("model", MODEL), *fields, file(loud(6.0)))
        assert answer.status_code == 200
        await until(lambda: "no words came of 6.0 s of audio" in caplog.text)
        assert (await router.metrics())[COUNT] == 1
        assert url in caplog.text


async def test_an_empty_answer_to_silence_is_right() -> None:
    async with parrot(says_nothing) as url, running_router(url) as router:
        assert (await router.upload(field("model", MODEL), file(silence(6.0)))).status_code == 200
        looks = router.router.service._transcriber._means.empty._looks
        await until(lambda: not looks, "it is still looked at")
        assert (await router.metrics())[COUNT] == 0


async def test_an_answer_with_words_is_never_looked_at() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, verbose("words")

    async with parrot(says) as url, running_router(url) as router:
        await router.upload(field("model", MODEL), file(loud(6.0)))
        assert not router.router.service._transcriber._means.empty._looks
        assert (await router.metrics())[COUNT] == 0


async def test_long_audio_without_a_word_is_counted_once_and_each_of_its_pieces() -> None:
    async with parrot(says_nothing) as url, running_router(url) as router:
        answer = await router.upload(field("model", MODEL), file(talk(100.0)))
        assert answer.status_code == 200
        metrics = await router.metrics()
        assert metrics[COUNT] == 1
        pieces = {
            o: metrics[f'vllm_router_pieces_total{{outcome="{o}"}}'] for o in ("heard", "empty")
        }
        assert pieces["empty"] == pieces["heard"] > 1


async def test_without_decoding_nothing_is_looked_at() -> None:
    async with parrot(says_nothing) as url, running_router(url, split="off") as router:
        await router.upload(field("model", MODEL), file(loud(6.0)))
        assert not router.router.service._transcriber._means.empty._looks
