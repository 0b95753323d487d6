"""vLLM's HTTP routes over anything that can turn an upload into words.

Who hears the words is a `Listener`: the real one runs a model, the simulated one a service curve.
Uploads are bounded (vLLM's 25 MB) and so is what is kept of them.
"""

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from vllm_router.local.answers import (
    DONE,
    Chunk,
    StreamEvents,
    error_event,
    models_body,
    to_json,
    to_verbose_json,
    usage_of,
)
from vllm_router.local.ask import ApiError, Ask, read_ask, unprocessed
from vllm_router.local.exchange import Body, Exchange
from vllm_router.local.figures import Figures, metrics_page
from vllm_router.local.form import FormError, FormReader, boundary_of

log = logging.getLogger(__name__)

# VLLM_MAX_AUDIO_CLIP_FILESIZE_MB and VLLM_MAX_AUDIO_DECODE_DURATION_S, vLLM's defaults.
MAX_FILE_MB = 25
MAX_AUDIO_S = 600
# The release whose answers are imitated.
VLLM_VERSION = "0.32.0"
# Bodies of other routes are small.
PLAIN_BODY_BYTES = 1 << 20

AUDIO_ROUTES = {
    "/v1/audio/transcriptions": "transcribe",
    "/v1/audio/translations": "translate",
}
_GET_ROUTES = frozenset(("/health", "/load", "/metrics", "/v1/models", "/version"))
_BAD_AUDIO = (
    "Invalid or corrupted audio data. Ensure the input is a valid audio or video file "
    "(e.g. a complete WAV, MP3, or MP4)."
)


def bad_audio() -> ApiError:
    """Return the refusal of a file that is no audio."""
    return ApiError(400, _BAD_AUDIO)


def too_long(audio_s: float, max_audio_s: float = MAX_AUDIO_S) -> ApiError:
    """Return the refusal of audio over `max_audio_s`, which is 600 s unless an operator says so."""
    return ApiError(
        400,
        f"Audio exceeds maximum allowed duration of {max_audio_s:g}s (metadata reports "
        f"{audio_s:.1f}s). Set VLLM_MAX_AUDIO_DECODE_DURATION_S to increase this limit.",
    )


class Recording(Protocol):
    """An upload that has been opened: its length and language are known."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""

    @property
    def language(self) -> str:
        """Code of the language, as asked for or as detected."""

    async def hear(self) -> Sequence[Chunk]:
        """Return all chunks, worked off at the same time."""

    def stream(self) -> AsyncIterator[AsyncIterator[str]]:
        """Return the chunks one after the other, each as its words come."""


class Listener(Protocol):
    """What turns uploads into words."""

    @property
    def keep_bytes(self) -> int:
        """How many first bytes of a file it wants to see."""

    @property
    def running(self) -> int:
        """Sequences (windows of 30 s) in service."""

    @property
    def waiting(self) -> int:
        """Sequences not yet begun."""

    async def open(self, ask: Ask) -> Recording:
        """Open an upload.

        Raises:
            ApiError: It is no audio, or too long.
        """


class PlainBody:
    """A small body kept whole."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in the next bytes, as long as there are not too many."""
        if len(self.data) + len(data) > PLAIN_BODY_BYTES:
            raise ValueError("the body is too large for this route")
        self.data += data


class Api:
    """The routes of one engine.

    Args:
        listener: Who turns uploads into words.
        model: The name it is served under.
        api_key: What clients must present on /v1 routes; None asks for nothing.
        wall_clock: Unix time in seconds.
        ranks: Data-parallel ranks shown in /metrics.
    """

    def __init__(
        self,
        listener: Listener,
        model: str,
        api_key: str | None = None,
        wall_clock: Callable[[], float] = time.time,
        ranks: int = 1,
    ) -> None:
        self.listener = listener
        self.model = model
        self.figures = Figures()
        self.in_hand = 0
        self._authorization = f"Bearer {api_key}".encode() if api_key else None
        self._wall_clock = wall_clock
        self._started_at = int(wall_clock())
        self._ranks = ranks
        #: Windows that the KV cache holds, for /metrics.
        self.cache_windows = 256

    def begin(self, exchange: Exchange, marker: bytes = b"") -> Body:
        """Decide where a request's body goes."""
        head = exchange.head
        if head.method == "POST" and head.path in AUDIO_ROUTES:
            boundary = boundary_of(head.header(b"content-type") or b"")
            if boundary is not None:
                return FormReader(boundary, self.listener.keep_bytes, marker)
        return PlainBody()

    def left(self, exchange: Exchange) -> None:
        """Count a client that left."""
        if exchange.head.path in AUDIO_ROUTES and exchange.is_complete:
            self.figures.aborted += 1

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request."""
        head = exchange.head
        try:
            if head.path.startswith("/v1") and not self._is_authorized(exchange):
                await exchange.respond_json(401, {"error": "Unauthorized"})
            elif head.path in AUDIO_ROUTES:
                if head.method != "POST":
                    raise ApiError(405, "Method Not Allowed", "Method Not Allowed")
                await self._answer_audio(exchange, AUDIO_ROUTES[head.path])
            elif head.path in _GET_ROUTES:
                if head.method not in ("GET", "HEAD"):
                    raise ApiError(405, "Method Not Allowed", "Method Not Allowed")
                await self._answer_get(exchange, head.path)
            else:
                raise ApiError(404, "Not Found", "Not Found")
        except ApiError as error:
            await exchange.respond_json(error.status, error.body())

    def _is_authorized(self, exchange: Exchange) -> bool:
        if self._authorization is None:
            return True
        given = exchange.head.header(b"authorization") or b""
        return hmac.compare_digest(given, self._authorization)

    async def _answer_get(self, exchange: Exchange, path: str) -> None:
        if path == "/health":
            await exchange.respond(200)
        elif path == "/load":
            await exchange.respond_json(200, {"server_load": self.in_hand})
        elif path == "/version":
            await exchange.respond_json(200, {"version": VLLM_VERSION})
        elif path == "/v1/models":
            await exchange.respond_json(200, models_body([self.model], self._started_at))
        else:
            await self.respond_metrics(exchange, is_sleeping=False)

    async def respond_metrics(self, exchange: Exchange, *, is_sleeping: bool) -> None:
        """Answer /metrics."""
        page = metrics_page(
            self.figures,
            self.model,
            self.listener.running,
            self.listener.waiting,
            is_sleeping,
            self._ranks,
            self.cache_windows,
        )
        await exchange.respond(200, page, "text/plain; version=0.0.4; charset=utf-8")

    async def _answer_audio(self, exchange: Exchange, task: str) -> None:
        ask = self._read(exchange, task)
        started_at = self._wall_clock()
        self.in_hand += 1
        try:
            recording = await self.listener.open(ask)
            if ask.is_streamed:
                await self._stream(exchange, ask, recording)
            else:
                chunks = await recording.hear()
                self.figures.generation_tokens += sum(chunk.token_count for chunk in chunks)
                await exchange.respond_json(200, self._body(ask, recording, chunks))
            self.figures.succeeded += 1
            self.figures.e2e.observe(max(0.0, self._wall_clock() - started_at))
        finally:
            self.in_hand -= 1

    def _read(self, exchange: Exchange, task: str) -> Ask:
        form = exchange.body
        if not isinstance(form, FormReader):
            raise unprocessed("file", "Field required")
        try:
            if exchange.error is not None:
                raise exchange.error
            parts = form.finish()
        except FormError:
            message = "There was an error parsing the body"
            raise ApiError(400, message, "Bad Request") from None
        ask = read_ask(parts, task, self.model)
        size_mb = ask.file.size_bytes / 1024**2
        if size_mb > MAX_FILE_MB:
            name = "audio_filesize_mb"
            message = f"Maximum file size exceeded (parameter={name}, value={size_mb})"
            raise ApiError(400, message, param=name)
        return ask

    def _body(self, ask: Ask, recording: Recording, chunks: Sequence[Chunk]) -> dict[str, object]:
        if ask.response_format == "verbose_json":
            return to_verbose_json(
                chunks, recording.language, recording.duration_s, ask.temperature
            )
        text = " ".join(chunk.text for chunk in chunks)
        return to_json(ask.task, text, recording.duration_s)

    async def _stream(self, exchange: Exchange, ask: Ask, recording: Recording) -> None:
        given = exchange.head.header(b"x-request-id")
        request_id = given.decode("latin-1") if given else uuid.uuid4().hex
        events = StreamEvents(
            f"{ask.task}-{request_id}", ask.task, ask.model, int(self._wall_clock())
        )
        # The prompt's four special tokens, and 50 encoder positions a second as vLLM counts them.
        prompt_tokens = 4 + int(recording.duration_s * 50)
        completion_tokens = 0

        def usage() -> dict[str, int] | None:
            is_wanted = ask.include_usage and ask.continuous_usage
            return usage_of(prompt_tokens, completion_tokens) if is_wanted else None

        await exchange.stream(200, "text/event-stream; charset=utf-8")
        try:
            is_first_chunk = True
            async for words in recording.stream():
                separator = "" if is_first_chunk else " "
                is_first_chunk = False
                async for word in words:
                    completion_tokens += 1
                    await exchange.send(events.delta(separator + word, usage()))
                    separator = ""
                await exchange.send(events.end_of_chunk(usage()))
            if ask.include_usage:
                await exchange.send(events.usage(usage_of(prompt_tokens, completion_tokens)))
        except asyncio.CancelledError:
            raise
        except Exception:
            # The status is out: all that is left to say goes into the stream, as vLLM does it.
            log.exception("a streamed answer broke")
            broken = ApiError(500, "Internal server error", "InternalServerError")
            await exchange.send(error_event(broken.body()))
        self.figures.generation_tokens += completion_tokens
        await exchange.send(DONE)
        await exchange.finish()
