"""What is made of an engine's answer; whole requests are tested end to end."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, TRANSCRIPTIONS, field, file, form, named, running_router

from vllm_router.audio.wav import silence

AUDIO = silence(5.0)


def asking(*more: bytes) -> list[bytes]:
    return [field("model", MODEL), *more, file(AUDIO)]


def sse(*events: Any, end: bytes = b"data: [DONE]\n\n") -> bytes:
    """Return a whole HTTP answer that is a stream of events, ended by closing."""
    lines = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head + lines + end


def chunk(text: str, reason: str | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"delta": {"content": text}}
    if reason:
        choice["finish_reason"] = reason
    return {"object": "transcription.chunk", "choices": [choice]}


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize(
    ("asked", "times_of", "sent"),
    [
        ("json", "segment", "json"),
        ("text", "segment", "json"),
        ("verbose_json", "segment", "json"),
        ("srt", "segment", "json"),
        ("vtt", "segment", "json"),
        ("verbose_json", "word", "verbose_json"),
    ],
)
async def test_an_engine_is_asked_for_json_unless_times_of_words_are_wanted(
    asked: str, times_of: str, sent: str
) -> None:
    seen: list[Heard] = []

    async def says(heard: Heard) -> Reply:
        seen.append(heard)
        return 200, verbose("words", words=[{"word": "words", "start": 0.0, "end": 1.0}])

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(
            *asking(field("response_format", asked), field("timestamp_granularities[]", times_of))
        )
        assert answer.status_code == 200
    assert seen[0].fields["response_format"] == sent
    assert seen[0].audio == AUDIO


async def test_times_of_words_pass_where_the_engine_gives_them() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, verbose("so", words=[{"word": "so", "start": 0.5, "end": 0.75}])

    for kind in ("json", "verbose_json"):
        async with parrot(says) as url, running_router(url) as router:
            answer = await router.upload(
                *asking(field("response_format", kind), field("timestamp_granularities[]", "word"))
            )
            assert answer.status_code == 200
            if kind == "verbose_json":
                assert answer.json()["words"] == [{"word": "so", "start": 0.5, "end": 0.75}]


async def test_what_is_no_transcript_is_a_502_that_names_the_engine() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, ["no transcript"]

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(field("response_format", "text")))
        assert answer.status_code == 502
        assert url in answer.json()["error"]["message"]
        streamed = await router.upload(
            *asking(field("response_format", "srt"), field("stream", "true"))
        )
        assert streamed.status_code == 502


async def test_no_json_begins_with_a_space() -> None:
    async def says(heard: Heard) -> Reply:
        lines = (b"Content-Type: application/json", b'ETag: "1"', b"X-Own: 2")
        return 200, raw(200, b'{"text": "  Two  spaces ","usage": {}}', *lines)

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking())
        assert answer.content == b'{"text": "Two  spaces ","usage": {}}'
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["x-own"] == "2"
        # It was of other bytes.
        assert "etag" not in answer.headers
        streamed = await router.upload(*asking(field("stream", "true")), x_stream_format="vllm")
        assert streamed.content == answer.content


@pytest.mark.parametrize("kind", ["openai", "vllm"])
async def test_no_stream_begins_with_a_space(kind: str) -> None:
    """Also where the engine sends OpenAI's events itself."""

    async def says(heard: Heard) -> Reply:
        if heard.number:
            deltas = [{"type": "transcript.text.delta", "delta": text} for text in (" one", " two")]
            return 200, sse(*deltas, {"type": "transcript.text.done", "text": " one two"}, end=b"")
        return 200, sse(chunk(""), chunk(" one"), chunk(" two", "stop"))

    async with parrot(says) as url, running_router(url) as router:
        for number in range(2):
            answer = await router.upload(*asking(field("stream", "true")), x_stream_format=kind)
            told = events(answer.text)
            if kind == "vllm" and not number:
                said = "".join(event["choices"][0]["delta"]["content"] for event in told)
            else:
                said = "".join(event.get("delta", "") for event in told)
            assert said == "one two"
            if kind == "openai" or number:
                assert told[-1]["text"] == "one two"


@pytest.mark.parametrize("kind", ["json", "text"])
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_damage_is_told_also_where_nothing_is_decoded(kind: str, stream: str) -> None:
    async def says(heard: Heard) -> Reply:
        if heard.fields.get("stream") == "true":
            return 200, sse(chunk("so", "stop"))
        return 200, {"text": "so"}

    parts = [field("model", MODEL), field("response_format", kind), field("stream", stream)]
    async with parrot(says) as url, running_router(url, split="off") as router:
        answer = await router.upload(*parts, file(AUDIO[: len(AUDIO) // 2]))
    assert "cut short" in answer.headers["x-audio-warning"]
    if stream == "true":
        assert "cut short" in events(answer.text)[-1]["warning"]


async def test_seconds_are_whole_wherever_a_usage_is_told() -> None:
    usage = {"type": "duration", "seconds": 4.2}

    async def says(heard: Heard) -> Reply:
        if heard.fields.get("stream") == "true":
            delta = {"type": "transcript.text.delta", "delta": "so"}
            done = {"type": "transcript.text.done", "text": "so", "usage": usage}
            return 200, sse(delta, done, end=b"")
        return 200, {"text": "so", "usage": usage}

    async with parrot(says) as url, running_router(url) as router:
        told = []
        for kind in ("json", "verbose_json"):
            answer = await router.upload(*asking(field("response_format", kind)))
            assert answer.headers["content-length"] == str(len(answer.content))
            told.append(answer.json()["usage"])
        streamed = await router.upload(*asking(field("stream", "true")))
        told.append(events(streamed.text)[-1]["usage"])
    for each in told:
        assert each == {"type": "duration", "seconds": 5}
        assert isinstance(each["seconds"], int)


async def test_an_engines_events_become_openais() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, sse(chunk(" one"), chunk(" two", "stop"), chunk("three", "stop"))

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(field("stream", "true")))
        assert answer.headers["x-engine-id"] == url
        *deltas, done = events(answer.text)
        assert "".join(event["delta"] for event in deltas) == done["text"] == "one two three"
        assert done["usage"] == {"type": "duration", "seconds": 5}


@pytest.mark.parametrize(
    "broken",
    [
        sse(chunk(" one"), end=b""),
        sse(chunk(" one"), {"error": {"message": "out of memory"}}),
        sse(chunk(" one"), end=b"data: {broken\n\n"),
        sse(chunk(" one"), end=b"").replace(b"Connection: close", b"Content-Length: 9999"),
    ],
)
async def test_a_stream_that_fails_ends_in_an_error_event(broken: bytes) -> None:
    async def says(heard: Heard) -> Reply:
        return 200, broken

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(field("stream", "true")))
        assert answer.status_code == 200
        first, *_, last = events(answer.text)
        assert first["delta"] == "one"
        assert last["error"]["message"]
        assert "transcript.text.done" not in answer.text


@pytest.mark.parametrize(
    ("second", "last"),
    [
        ((200, sse(chunk(" one"), chunk(" two"))), "one two"),
        ((200, sse(chunk(" one two"))), "one two"),
        ((200, sse(chunk(" other"))), "transcript diverged"),
        ((400, {"error": {"message": "too loud"}}), "too loud"),
        ((400, {"object": "error", "message": "too loud"}), "too loud"),
        ((400, ["too loud"]), "refused the upload with status 400"),
        ((200, {"text": " one two"}), "one two"),
        ((200, {"text": "other"}), "transcript diverged"),
        ((200, {"words": []}), "answered without events"),
        ((206, {"text": "one two"}), "answered without events"),
        (
            (200, b"HTTP/1.1 400 X\r\nContent-Length: 9000000\r\n\r\n" + bytes(5_000_000)),
            "broke off",
        ),
    ],
)
async def test_the_engine_that_goes_on_with_a_stream_says_what_the_first_one_said(
    second: Reply, last: str
) -> None:
    replies = iter([(200, sse(chunk(" one"), end=b"")), second])

    async def says(heard: Heard) -> Reply:
        return next(replies)

    async with parrot(says) as a, parrot(says) as b, running_router(a, b) as router:
        answer = await router.upload(*asking(field("stream", "true")))
        assert answer.status_code == 200
        first, *_, end = events(answer.text)
        assert first["delta"] == "one"
        assert last in (end.get("text") or end["error"]["message"])


async def test_the_case_of_an_engines_content_type_does_not_matter() -> None:
    for more in (), (field("stream_format", "sse"),):
        told = []
        for kind in (b"text/event-stream", b"Text/Event-Stream"):

            async def says(heard: Heard, kind: bytes = kind) -> Reply:
                return 200, sse(chunk("one"), chunk("", "stop")).replace(b"text/event-stream", kind)

            async with parrot(says) as url, running_router(url) as router:
                answer = await router.upload(*asking(field("stream", "true"), *more))
                told.append(events(answer.text))
        assert told[0] == told[1] != []


async def test_a_stream_asked_of_an_engine_that_answers_at_once_is_its_answer() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, {"text": "all at once"}

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(field("stream", "true")))
        assert answer.json() == {"text": "all at once"}


LARGE = b'{"text": " ' + b"word " * 800_000 + b'","usage":{"type":"duration","seconds":4.2}}'
LARGE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def test_a_large_transcript_is_edited_like_a_small_one() -> None:
    async def says(heard: Heard) -> Reply:
        return 200, LARGE_HEAD % len(LARGE) + LARGE

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking())
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.content[:20] == b'{"text": "word word '
    assert answer.json()["usage"] == {"type": "duration", "seconds": 5}
    assert len(answer.json()["text"]) == 4_000_000


async def test_where_a_large_transcript_breaks_off_another_engine_is_asked() -> None:
    calls: list[Heard] = []

    async def says(heard: Heard) -> Reply:
        calls.append(heard)
        return 200, LARGE_HEAD % len(LARGE) + (LARGE[:-1000] if len(calls) == 1 else LARGE)

    async with parrot(says) as one, parrot(says) as other, running_router(one, other) as router:
        answer = await router.upload(*asking())
    assert answer.status_code == 200
    assert len(answer.json()["text"]) == 4_000_000
    assert len(calls) == 2


async def test_a_large_answer_in_an_engines_own_format_passes_as_it_comes() -> None:
    """More than is taken whole: it is streamed, and cut where the engine breaks it off."""
    whole = LARGE

    async def says(heard: Heard) -> Reply:
        sent = whole if heard.number == 0 else whole[:-1000]
        return 200, LARGE_HEAD % len(whole) + sent

    own = field("response_format", "own")
    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(own))
        assert answer.content == whole
        got = b""
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012
            async with router.client.stream(
                "POST", TRANSCRIPTIONS, content=form(*asking(own)), headers=named({})
            ) as cut:
                async for data in cut.aiter_bytes():
                    got += data
        assert len(got) < len(whole)


async def test_what_no_engine_streams_comes_as_events_once_it_is_there() -> None:
    async def says(heard: Heard) -> Reply:
        await asyncio.sleep(0.3)
        return 200, verbose("words")

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(
            *asking(field("response_format", "vtt"), field("stream", "true"))
        )
        assert events(answer.text)[-1]["text"].startswith("WEBVTT")


def raw(status: int, body: bytes, *lines: bytes) -> bytes:
    """Return a whole HTTP answer with these header lines."""
    head = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *lines, b"", b""]
    return b"\r\n".join(head) + body


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 401, 403, 407])
@pytest.mark.parametrize("asked", ["json", "srt", "no-format"])
@pytest.mark.parametrize("is_stream", ["true", "false"])
async def test_what_concerns_no_client_is_a_502_without_an_address_of_the_inside(
    status: int, asked: str, is_stream: str
) -> None:
    async def says(heard: Heard) -> Reply:
        lines = (b"Location: http://inside:8000/", b"WWW-Authenticate: Bearer")
        return 200, raw(status, b'{"error": "go to http://inside:8000/"}', *lines)

    async with parrot(says) as url, running_router(url, max_attempts=1) as router:
        fields = [field("response_format", asked), field("stream", is_stream)]
        answer = await router.upload(*asking(*fields))
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "engine_failed"
        assert "inside" not in answer.text + str(answer.headers)
        assert "www-authenticate" not in answer.headers


REFUSALS = {
    "html": (b"<html>409 at http://inside/</html>", "refused the upload with status 409"),
    "a word": (b'{"error": "TooLoud"}', "TooLoud"),
    "text": (b"Payload Too Large", "Payload Too Large"),
    "nothing": (b"", "refused the upload with status 409"),
    "much": (b"<" * 3_000_000, "refused the upload with status 409"),
}


@pytest.mark.parametrize(("body", "message"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("asked", ["json", "srt"])
async def test_a_refusal_in_another_shape_is_put_into_openais(
    body: bytes, message: str, asked: str
) -> None:
    async def says(heard: Heard) -> Reply:
        lines = (b"Content-Type: text/html", b"ETag: 1", b"Retry-After: 7")
        return 200, raw(409, body, *lines)

    async with parrot(says) as url, running_router(url) as router:
        answer = await router.upload(*asking(field("response_format", asked)))
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/json"
        assert "etag" not in answer.headers
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["x-engine-id"] == url
        assert message in answer.json()["error"]["message"]


async def test_what_an_engine_means_for_the_router_alone_stays_there() -> None:
    async def says(heard: Heard) -> Reply:
        lines = (
            b"Connection: close",
            b"Connection: X-Inside",
            b"X-Inside: 1",
            b"X-Own: 2",
            b"Date: Thu, 01 Jan 1970 00:00:00 GMT",
            b"Server: uvicorn",
            b"Set-Cookie: a=b",
            b"Access-Control-Allow-Origin: *",
            b"Keep-Alive: timeout=5",
        )
        answer = raw(200, b'{"text": "words"}', b"Content-Type: application/json", *lines)
        if heard.fields.get("stream") == "true":
            head = b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", *lines])
            answer = head + b"\r\n\r\ndata: [DONE]\n\n"
        return 200, answer

    async with parrot(says) as url, running_router(url) as router:
        for is_stream in ("false", "true"):
            answer = await router.upload(
                *asking(field("stream", is_stream)), x_stream_format="vllm"
            )
            assert answer.status_code == 200
            assert answer.headers["x-own"] == "2"
            for name in ("x-inside", "server", "set-cookie", "keep-alive"):
                assert name not in answer.headers
            assert "access-control-allow-origin" not in answer.headers
            assert "1970" not in str(answer.headers.get_list("date"))
