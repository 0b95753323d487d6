"""Relay one upload to one engine and its answer to the client.

The upload is sent byte for byte, except for edits to a few fields. The answer is also returned byte
for byte; a refusal is converted to OpenAI's format. `headers` decides which headers pass.
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

#: Headers that are kept with a refusal that is converted to OpenAI's format.
_KEPT_WITH_REFUSAL: Final = frozenset({b"retry-after", b"x-engine-id"})

#: Seconds that an engine may take per second of audio. Any engine worth having transcribes faster
#: than half of real time, so one that takes longer hangs.
ANSWER_S_PER_AUDIO_S: Final = 2.0

#: A transcript is read completely up to the size that the router can parse: its beginning and end
#: are edited, its words are checked, and another engine is tried if this one breaks off.
TRANSCRIPT_BYTES: Final = MAX_READ_BYTES


class UploadBody:
    """A request body made of ranges of an upload and bytes of the router's own.

    Args:
        upload: Must stay open until the call is over.
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
        """Return an upload's bytes with edits applied."""
        return cls(upload, upload.spans(edits))

    def in_memory(self) -> Buffers | None:
        """Return the body's bytes in place, or None if some are on disk."""
        return self._upload.memory_of(self._spans)

    def pieces(self) -> Pieces:
        """Return the body's bytes in pieces; raises SpoolFailed if the disk cannot be read."""
        return self._upload.pieces(self._spans)


async def understood(call: Awaitable[Answer], read: Callable[[bytes], object]) -> Answer:
    """Return a call's answer once its body was parsed; an invalid body is the engine's failure.

    Args:
        call: The call in flight.
        read: Parses the body of a 200.

    Raises:
        BadAnswer: The body is not a transcript.
        CallFailed: The call failed.
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
            raise BadAnswer(f"its answer is not a transcript: {e}") from e
    return answer


async def pass_on(exchange: Exchange, attempt: Attempt, start: StreamStart | None = None) -> None:
    """Pass an engine's answer on to the client: status, headers and body unchanged.

    A refusal in another format is converted to OpenAI's. The caller closes the attempt. If the
    answer breaks off after its first byte was sent, the response can only be cut off, which is how
    HTTP marks it as incomplete.

    Args:
        exchange: The client's request.
        attempt: The attempt with the answer.
        start: Removes white space before the first word of an event stream; None: it is kept.

    Raises:
        EngineFailed: The answer is not for clients, such as a redirect to an internal address;
            nothing has been sent.
        CallFailed: The answer broke off.
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
    # Events have no declared length: an error event may replace others.
    has_length = length.isdigit() and not is_events
    body = exchange.begin(status, headers, int(length) if has_length else None)
    held = b""
    try:
        async for chunk in answer.chunks():
            if is_events:
                # Part of an event would garble the error event that may follow.
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
        # An event stream can report the failure.
        body.write(encode(error_event(f"The engine broke off: {e}.", code="engine_failed")))
        body.end()
        raise
    body.write(held)
    body.end()


async def _pass_refusal_on(exchange: Exchange, attempt: Attempt) -> None:
    """Respond to a client with an engine's refusal, in OpenAI's format."""
    answer = attempt.answer
    status = answer.status
    if not is_for_clients(status):
        attempt.close(OutcomeKind.BAD_STATUS, f"it answered {status}")
        words = f"{attempt.engine_id} answered {status}, which does not concern the upload."
        raise EngineFailed(words)
    try:
        said = await answer.read(MAX_REFUSAL_BYTES)
    except CallFailed:
        # The status is known; the refusal's text is not.
        said = b""
    error = EngineRefused(status, said)
    headers = client_headers(answer.headers, attempt.engine_id)
    if not error.is_verbatim or not is_type(answer.header(b"content-type"), b"application/json"):
        # Headers about the engine's body do not fit the new one. Also, an answer in another format
        # may come from a proxy, whose headers concern the internal network.
        headers = [h for h in headers if h[0] in _KEPT_WITH_REFUSAL]
        headers.append((b"content-type", b"application/json"))
    exchange.respond(status, headers, error.body())


class CallIds:
    """Generates a unique X-Request-Id for each call to an engine.

    vLLM names its work after this header. If one call is cancelled, vLLM ends *every* call of the
    same name, and the others return 200 with the words transcribed so far. Pieces of one upload,
    retries, and clients that choose the same ID must therefore not share a name, and no client may
    be able to choose another's.
    """

    __slots__ = ("_count", "_token")

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._count = 0

    def next(self, request_id: str) -> bytes:
        """Return the ID of a request's next call; it begins with the request's own ID."""
        self._count += 1
        return f"{request_id}-{self._token}{self._count:x}".encode("latin-1")


class Relay:
    """Sends uploads to engines.

    Args:
        client: Makes the calls.
        floors: Minimum deadlines; the deadline for an answer grows with the audio.
        engine_key: The key for engines.
    """

    def __init__(self, client: HttpClient, floors: Deadlines, engine_key: str | None) -> None:
        self._client = client
        self._floors = floors
        self.engine_key = engine_key
        self._origins = Origins()
        self._call_ids = CallIds()

    def deadlines(self, audio_s: float) -> Deadlines:
        """Return the deadlines of a call with this much audio, in seconds."""
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
