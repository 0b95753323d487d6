"""One upload to one engine and its answer back: what is sent, what is passed on, what is left out.

The upload goes out as the bytes it was, with edits to a few fields at the most. An answer comes
back as the bytes it was, a refusal in OpenAI's shape. Which headers pass is known to `headers`.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from vllm_router.errors import EngineFailed
from vllm_router.formats.engine_error import EngineRefused, is_for_clients
from vllm_router.formats.leading_space import StreamStart
from vllm_router.formats.media_type import is_type
from vllm_router.formats.sse import MAX_EVENT_BYTES, complete_bytes, encode
from vllm_router.formats.stream_events import error_event
from vllm_router.formats.transcript import BadTranscript
from vllm_router.requests.attempt import MAX_REFUSAL_BYTES, Attempt
from vllm_router.requests.headers import client_headers
from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.work import OutcomeKind
from vllm_router.server.exchange import Exchange
from vllm_router.spool.multipart import Edit
from vllm_router.spool.upload import BodySpan, Pieces, Upload
from vllm_router.upstream.answer import MAX_READ_BYTES, Answer
from vllm_router.upstream.call import (
    BadAnswer,
    Body,
    Buffers,
    CallFailed,
    Deadlines,
    Headers,
)
from vllm_router.upstream.http_client import WHOLE_BYTES, HttpClient
from vllm_router.upstream.origin import Origins

#: Headers that go along with a refusal that is put into another shape.
_KEPT_WITH_REFUSAL: Final = frozenset({b"retry-after", b"x-engine-id"})

#: What an engine may take for each second of audio: 0.5 times real time is slower than any engine
#: worth having, so a longer wait means that it hangs.
ANSWER_S_PER_AUDIO_S: Final = 2.0

#: A transcript is awaited whole up to the size up to which the router reads one: its beginning and
#: its end are edited, its words are checked, and if the engine breaks off another one is asked.
TRANSCRIPT_BYTES: Final = MAX_READ_BYTES


class UploadBody:
    """Ranges of an upload and bytes of ours, one after the other, as the body of a request.

    Args:
        upload: Stays open until the call is over.
        spans: (start, end) in the upload, or bytes.
    """

    __slots__ = ("_spans", "_upload", "size_bytes")

    def __init__(self, upload: Upload, spans: list[BodySpan]) -> None:
        self._upload = upload
        self._spans = spans
        self.size_bytes = 0
        for span in spans:
            self.size_bytes += len(span) if isinstance(span, bytes) else span[1] - span[0]

    @classmethod
    def edited(cls, upload: Upload, edits: list[Edit]) -> UploadBody:
        """Return an upload's bytes with edits made."""
        return cls(upload, upload.spans(edits))

    def in_memory(self) -> Buffers | None:
        """Return its bytes where they lie, or None if some are on disk."""
        return self._upload.memory_of(self._spans)

    def pieces(self) -> Pieces:
        """Return its bytes in pieces; they raise SpoolFailed when the disk cannot be read."""
        return self._upload.pieces(self._spans)


async def understood(call: Awaitable[Answer], read: Callable[[bytes], object]) -> Answer:
    """Return a call's answer once its body was read; nonsense is a failure of the engine.

    Args:
        call: Under way.
        read: Takes the body of a 200.

    Raises:
        BadAnswer: The body holds no transcript.
        CallFailed: As the call.
    """
    answer = await call
    if answer.status == 200:
        try:
            read(await answer.read())
        except CallFailed:
            answer.close()
            raise
        except BadTranscript as e:
            answer.close()
            raise BadAnswer(f"it answered what is no transcript: {e}") from e
    return answer


async def pass_on(exchange: Exchange, attempt: Attempt, start: StreamStart | None = None) -> None:
    """Answer a client with what an engine answered: status, headers and body as they are.

    A refusal is put into OpenAI's shape if it has another. The caller closes the attempt. An answer
    that breaks off after its first byte has gone out can only be cut: that is how HTTP says that it
    is not whole.

    Args:
        exchange: The client's request.
        attempt: Whose answer it is.
        start: Cuts the white space before the first word of a stream of events; None: it stays.

    Raises:
        EngineFailed: It is no answer for a client, such as a redirect to somewhere inside; nothing
            has been sent.
        CallFailed: It broke off.
    """
    answer = attempt.answer
    status = answer.status
    if status < 200 or status >= 300:
        await _pass_refusal_on(exchange, attempt)
        return
    headers = client_headers(answer.headers, attempt.engine_id)
    if answer.body is not None:
        exchange.respond(status, headers, answer.body)
        return
    length = answer.header(b"content-length")
    is_events = is_type(answer.header(b"content-type"), b"text/event-stream")
    # Events have no length told: one that says what went wrong may take others' place.
    has_length = length.isdigit() and not is_events
    body = exchange.begin(status, headers, int(length) if has_length else None)
    held = b""
    try:
        async for chunk in answer.chunks():
            if is_events:
                # Half an event would swallow the one that says what became of it.
                chunk = held + chunk
                end = complete_bytes(chunk) if len(chunk) < MAX_EVENT_BYTES else len(chunk)
                chunk, held = chunk[:end], chunk[end:]
                if start is not None:
                    chunk = start.edited(chunk)
            body.write(chunk)
            await body.drain()
    except CallFailed as e:
        if not is_events:
            raise
        # A stream of events can say what became of it.
        body.write(encode(error_event(f"The engine broke off: {e}.", code="engine_failed")))
        body.end()
        raise
    body.write(held)
    body.end()


async def _pass_refusal_on(exchange: Exchange, attempt: Attempt) -> None:
    """Answer a client with an engine's refusal, in OpenAI's shape."""
    answer = attempt.answer
    status = answer.status
    if not is_for_clients(status):
        attempt.close(OutcomeKind.BAD_STATUS, f"it answered {status}")
        words = f"{attempt.engine_id} answered {status}, which says nothing of the upload."
        raise EngineFailed(words)
    try:
        said = await answer.read(MAX_REFUSAL_BYTES)
    except CallFailed:
        # The status is known, and that it refuses; its words are not.
        said = b""
    error = EngineRefused(status, said)
    headers = client_headers(answer.headers, attempt.engine_id)
    if not error.is_verbatim or not is_type(answer.header(b"content-type"), b"application/json"):
        # What describes the engine's body would describe ours wrongly, and who answers in another
        # shape may be a proxy, whose headers are about the inside.
        headers = [h for h in headers if h[0] in _KEPT_WITH_REFUSAL]
        headers.append((b"content-type", b"application/json"))
    exchange.respond(status, headers, error.body())


class CallIds:
    """Makes an X-Request-Id for each call to an engine, which no other call ever has.

    vLLM names its work after this header. When one call is cancelled it ends *every* call of the
    same name, and the others return 200 with the words they had so far. So pieces of one upload,
    repeats, and clients that happen to choose the same ID must not share one, and no client may be
    able to choose that of another.
    """

    __slots__ = ("_count", "_token")

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._count = 0

    def next(self, request_id: str) -> bytes:
        """Return the ID of a further call for a request; begins with the request's own."""
        self._count += 1
        return f"{request_id}-{self._token}{self._count:x}".encode("latin-1")


class Relay:
    """Carries uploads to engines.

    Args:
        client: Makes the calls.
        floors: The least deadlines; the wait for an answer grows with the audio.
        engine_key: The key that engines ask for.
    """

    def __init__(self, client: HttpClient, floors: Deadlines, engine_key: str | None) -> None:
        self._client = client
        self._floors = floors
        self.engine_key = engine_key
        self._origins = Origins()
        self._call_ids = CallIds()

    def deadlines(self, audio_s: float) -> Deadlines:
        """Return the bounds of a call that carries so much audio."""
        floors = self._floors
        read_s = audio_s * ANSWER_S_PER_AUDIO_S
        if read_s <= floors.read_s:
            return floors
        return Deadlines(floors.connect_s, floors.write_s, read_s)

    def send(
        self,
        engine: Engine,
        path: bytes,
        request_id: str,
        headers: Headers,
        body: Body,
        audio_s: float,
        whole_bytes: int = WHOLE_BYTES,
    ) -> Awaitable[Answer]:
        """Send an upload to an engine; see `HttpClient.call`."""
        deadlines = self.deadlines(audio_s)
        headers = [*headers, (b"x-request-id", self._call_ids.next(request_id))]
        return self._client.call(
            self._origins.of(engine.spec.url),
            b"POST",
            path,
            headers,
            body,
            deadlines,
            whole_bytes=whole_bytes,
        )
