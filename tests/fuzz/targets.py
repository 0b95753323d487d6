"""What is fuzzed, piece by piece: each target takes any bytes and raises only if a promise breaks.

Every parser is fed the same bytes whole and in pieces, and must come to the same end. Targets know
nothing of who makes the bytes up: atheris for minutes, or the suite for a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm_router.audio.duration import audio_seconds, container_kind
from vllm_router.audio.length_doubt import length_doubt
from vllm_router.audio.upload_faults import audio_damage, audio_refusal
from vllm_router.audio.wav import WavError, pcm16_wav, read_wav_header
from vllm_router.formats.engine_error import read_engine_error
from vllm_router.formats.sse import EventReader, EventTooLarge
from vllm_router.formats.stream_events import ChunkTranslator
from vllm_router.formats.transcript import BadTranscript, read_transcript
from vllm_router.scheduling.engine_metrics import BadExposition, read_engine_stats
from vllm_router.server.chunked import BadChunk, ChunkedReader
from vllm_router.server.head import BadHead, read_head
from vllm_router.spool.multipart import BadForm, FormReader, boundary_of
from vllm_router.upstream.call import (
    BytesBody,
    CallFailed,
    Deadlines,
)
from vllm_router.upstream.engine_connection import EngineConnection
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.origin import Origin
from vllm_router.upstream.probe import read_models
from vllm_router.upstream.refusal import read_refusal


def pieces(data: bytes) -> Iterable[bytes]:
    """Cut data into pieces; its own first byte says how large."""
    size = 1 + data[0] % 40 if data else 1
    return [data[at : at + size] for at in range(0, len(data), size)]


def outcome(run: Callable[[], Any], *refusals: type[Exception]) -> Any:
    """Return what a parser returns, or that it refused."""
    try:
        return run()
    except refusals as e:
        return type(e)


def form(data: bytes) -> None:
    """A form, and a content type."""
    outcome(lambda: boundary_of(data), BadForm)

    def whole() -> Any:
        reader = FormReader(b"b")
        reader.feed(data, 0, len(data))
        return reader.finish()

    def in_pieces() -> Any:
        reader = FormReader(b"b")
        for piece in pieces(data):
            reader.feed(bytearray(b"\r\n--b" + piece + b"--"), 5, 5 + len(piece))
        return reader.finish()

    read = outcome(whole, BadForm)
    assert outcome(in_pieces, BadForm) == read
    for part in getattr(read, "parts", ()):
        assert 0 <= part.start <= part.end <= len(data)
        assert part.value is None or part.value == data[part.start : part.end]


def chunked(data: bytes) -> None:
    """A chunked body."""

    def read(parts: Iterable[bytes]) -> Any:
        reader, content = ChunkedReader(), b""
        for part in parts:
            spans, stop = reader.feed(part, 0, len(part))
            assert stop == len(part) or reader.is_done
            content += b"".join(part[start:end] for start, end in spans)
        return content, reader.is_done

    assert outcome(lambda: read([data]), BadChunk) == outcome(lambda: read(pieces(data)), BadChunk)


def head(data: bytes) -> None:
    """A request's head."""
    for raw in (data, b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        try:
            read = read_head(raw)
        except BadHead:
            continue
        assert not (read.is_chunked and read.content_length is not None)
        assert all(not set(value) & set(b"\r\n\0") for _, value in read.headers)


def audio(data: bytes) -> None:
    """A container's length, and what is wrong with it."""
    for size in (len(data), len(data) * 1000):
        seconds = audio_seconds(data, size, data[-4096:])
        assert seconds is None or seconds >= 0
        for trouble in (audio_refusal(data, size), audio_damage(data, size, data[-4096:])):
            assert trouble is None or trouble
        kind = container_kind(data)
        doubt = length_doubt(kind, data, size, data[-4096:], seconds)
        assert doubt is None or doubt


def wav(data: bytes) -> None:
    """A WAV header."""
    for raw in (data, b"RIFF\xff\xff\xff\xffWAVE" + data):
        header = outcome(lambda raw=raw: read_wav_header(raw), WavError)
        assert header is WavError or header.rate_hz > 0


def events(data: bytes) -> None:
    """An engine's event stream, and what becomes of it."""

    def read(parts: Iterable[bytes]) -> Any:
        reader = EventReader(10_000)
        return [event for part in parts for event in reader.feed(part)]

    assert outcome(lambda: read([data]), EventTooLarge) == outcome(
        lambda: read(pieces(data)), EventTooLarge
    )
    translator = ChunkTranslator(1.0)
    for piece in pieces(data):
        translator.feed(piece)


def metrics(data: bytes) -> None:
    """An engine's metrics page."""
    stats = outcome(lambda: read_engine_stats(data), BadExposition)
    assert stats is BadExposition or (stats.running >= 0 and stats.waiting >= 0)


def words(data: bytes) -> None:
    """An engine's transcript and its list of models."""
    outcome(lambda: read_transcript(data, 1.0), BadTranscript)
    outcome(lambda: read_models(data), CallFailed)


def refusal(data: bytes) -> None:
    """An engine's refusal."""
    for status in (400, 413, 500):
        read_refusal(status, data, asked_format="verbose_json", language="de")
    said = json.loads(read_engine_error(400, data).body)["error"]
    assert {"message", "type", "param", "code"} <= said.keys()
    assert isinstance(said["message"], str)
    assert said["message"]


class _Wire:
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        self._is_closing = False
        self.is_paused = False

    def is_closing(self) -> bool:
        return self._is_closing

    def abort(self) -> None:
        self._is_closing = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def writelines(self, data: Any) -> None:
        pass


@dataclass
class EngineAnswers:
    """An engine's answer to the HTTP client; keeps its loop over many inputs."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __call__(self, data: bytes) -> None:
        """Answer a call by these bytes, whole and in pieces."""
        for parts in ([data], pieces(data)):
            self.loop.run_until_complete(self._answer(parts))

    async def _answer(self, parts: Iterable[bytes]) -> None:
        connection = EngineConnection(HttpClient(), Origin.of("http://a"))
        connection.connection_made(_Wire())  # type: ignore[arg-type]
        calling = connection.call(b"head", BytesBody(b""), Deadlines(9, 9, 9), 1000)
        task = asyncio.ensure_future(calling)
        await asyncio.sleep(0)
        for part in parts:
            if connection.is_usable(60.0):
                connection.data_received(part)
        connection.connection_lost(None)
        with contextlib.suppress(CallFailed):
            answer = await task
            assert 100 <= answer.status <= 999
            with contextlib.suppress(CallFailed):
                await answer.read()
            answer.close()
        assert not connection.is_usable(60.0)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to feed bytes.

    Attributes:
        run: Takes any bytes.
        seeds: Good inputs, to begin from.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def targets() -> dict[str, Target]:
    """Return everything that is fuzzed, by name."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nsound\r\n'
    return {
        "form": Target(form, (part + b"--b--\r\n", b"multipart/form-data; boundary=b")),
        "chunked": Target(chunked, (b"3\r\nabc\r\n0\r\nA: b\r\n\r\n", b"a;x=y\r\n")),
        "head": Target(
            head,
            (b"POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", b"Connection: close"),
        ),
        "audio": Target(audio, _sounds()),
        "wav": Target(wav, (pcm16_wav(bytes(320)), b"fmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0")),
        "events": Target(
            events,
            (
                b'data: {"object":"transcription.chunk","choices":[{"delta":{"content":"a"}}]}\n\n'
                b"data: [DONE]\n\n",
                b": comment\r\nevent: x\r\nid: 1\r\ndata: y\r\n\r\n",
            ),
        ),
        "metrics": Target(
            metrics,
            (
                b'# HELP x y\nvllm:num_requests_running{model_name="m",engine="0"} 1.0\n'
                b"vllm:num_requests_waiting 2\n",
            ),
        ),
        "words": Target(
            words,
            (
                b'{"text":"a","segments":[{"id":0,"start":0.0,"end":1.0,"text":"a"}]}',
                b'{"object":"list","data":[{"id":"m"}]}',
            ),
        ),
        "refusal": Target(
            refusal,
            (
                b'{"error":{"message":"m","type":"t","param":null,"code":400}}',
                b'{"object":"error","message":"m","type":"t","param":"p","code":400}',
                b'{"detail":[{"loc":["body","file"],"msg":"Field required","type":"missing"}]}',
                b"<html><body>413 Request Entity Too Large</body></html>",
            ),
        ),
        "engine answer": Target(
            EngineAnswers(),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n"
                b"Content-Type: text/event-stream\r\n\r\ndata: x\n\n",
            ),
        ),
    }


def _sounds() -> tuple[bytes, ...]:
    return (
        pcm16_wav(bytes(3200)),
        b"fLaC\0\0\0\x22" + bytes(34),
        b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\1\0\0\x80\xbb\0\0\0\0\0",
        b"\xff\xfb\x90\x64" + bytes(413),
        b"ID3\4\0\0\0\0\0\0\xff\xfb\x90\x64" + bytes(50) + b"Xing\0\0\0\1\0\0\1\0",
        b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42\0\0\0\x08moov",
        b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1\x18\x53\x80\x67",
    )


def mutated(seed: bytes, rng: Any) -> bytes:
    """Return a good input with a few bytes dropped, doubled, swapped or replaced."""
    data = bytearray(seed)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                del data[at : at + rng.randrange(1, 9)]
            case 1:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                data[at : at + 1] = rng.choice([b"\r", b"\n", b"\0", b"\xff", b"-", b":", b"9"])
            case _:
                data[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(data)
