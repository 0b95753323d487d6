"""vLLM's HTTP routes in front of made-up words.

Uploads are limited to vLLM's 25 MB; only a bounded part of each is kept.
"""

import hmac
import time
import uuid
from collections.abc import Callable, Sequence

from tests.fake_engine.exchange import Body, Exchange
from tests.fake_engine.metrics import Figures, metrics_page
from tests.fake_engine.multipart import FormError, FormReader, boundary_of
from tests.fake_engine.options import RequestOptions, read_options, validation_error
from tests.fake_engine.words import KEEP_BYTES, SimulatedRecording, SimulatedWords

from vllm_router.local.errors import MAX_FILE_MB, ApiError
from vllm_router.local.responses import (
    DONE,
    VLLM_VERSION,
    Chunk,
    StreamEvents,
    models_body,
    to_json,
    to_verbose_json,
    usage_of,
)

# Bodies of other routes are small.
PLAIN_BODY_BYTES = 1 << 20

AUDIO_ROUTES = {
    "/v1/audio/transcriptions": "transcribe",
    "/v1/audio/translations": "translate",
}
_GET_ROUTES = frozenset(("/health", "/load", "/metrics", "/v1/models", "/version"))


class PlainBody:
    """A small body kept whole."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes, up to the limit."""
        if len(self.data) + len(data) > PLAIN_BODY_BYTES:
            raise ValueError("the body is too large for this route")
        self.data += data


class Api:
    """The routes of one engine.

    Args:
        source: Makes the words up.
        model: The name that is served.
        api_key: Required on /v1 routes; None requires nothing.
        wall_clock: Unix time in seconds.
        ranks: Data-parallel ranks shown in /metrics.
    """

    def __init__(
        self,
        source: SimulatedWords,
        model: str,
        api_key: str | None = None,
        wall_clock: Callable[[], float] = time.time,
        ranks: int = 1,
    ) -> None:
        self._source = source
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
        """Return the receiver of a request's body."""
        head = exchange.head
        if head.method == "POST" and head.path in AUDIO_ROUTES:
            boundary = boundary_of(head.header(b"content-type") or b"")
            if boundary is not None:
                return FormReader(boundary, KEEP_BYTES, marker)
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
            self._source.curve.running,
            self._source.curve.waiting,
            is_sleeping,
            self._ranks,
            self.cache_windows,
        )
        await exchange.respond(200, page, "text/plain; version=0.0.4; charset=utf-8")

    async def _answer_audio(self, exchange: Exchange, task: str) -> None:
        options = self._read(exchange, task)
        started_at = self._wall_clock()
        self.in_hand += 1
        try:
            recording = self._source.open(options)
            if options.is_streamed:
                await self._stream(exchange, options, recording)
            else:
                chunks = await recording.words()
                self.figures.generation_tokens += sum(chunk.token_count for chunk in chunks)
                await exchange.respond_json(200, self._body(options, recording, chunks))
            self.figures.succeeded += 1
            self.figures.e2e.observe(max(0.0, self._wall_clock() - started_at))
        finally:
            self.in_hand -= 1

    def _read(self, exchange: Exchange, task: str) -> RequestOptions:
        form = exchange.body
        if not isinstance(form, FormReader):
            raise validation_error("file", "Field required")
        try:
            if exchange.error is not None:
                raise exchange.error
            parts = form.finish()
        except FormError:
            message = "There was an error parsing the body"
            raise ApiError(400, message, "Bad Request") from None
        options = read_options(parts, task, self.model)
        size_mb = options.file.size_bytes / 1024**2
        if size_mb > MAX_FILE_MB:
            name = "audio_filesize_mb"
            message = f"Maximum file size exceeded (parameter={name}, value={size_mb})"
            raise ApiError(400, message, param=name)
        return options

    def _body(
        self, options: RequestOptions, recording: SimulatedRecording, chunks: Sequence[Chunk]
    ) -> dict[str, object]:
        if options.response_format == "verbose_json":
            return to_verbose_json(
                chunks, recording.language, recording.duration_s, options.temperature
            )
        text = " ".join(chunk.text for chunk in chunks)
        return to_json(options.task, text, recording.duration_s)

    async def _stream(
        self, exchange: Exchange, options: RequestOptions, recording: SimulatedRecording
    ) -> None:
        given = exchange.head.header(b"x-request-id")
        request_id = given.decode("latin-1") if given else uuid.uuid4().hex
        events = StreamEvents(
            f"{options.task}-{request_id}", options.task, options.model, int(self._wall_clock())
        )
        # The prompt's special tokens, and the 50 encoder positions per second that vLLM counts.
        prompt_tokens = 4 + int(recording.duration_s * 50)
        completion_tokens = 0

        def usage() -> dict[str, int] | None:
            is_wanted = options.include_usage and options.continuous_usage
            return usage_of(prompt_tokens, completion_tokens) if is_wanted else None

        await exchange.stream(200, "text/event-stream; charset=utf-8")
        is_first_chunk = True
        async for words in recording.stream():
            separator = "" if is_first_chunk else " "
            is_first_chunk = False
            async for word in words:
                completion_tokens += 1
                await exchange.send(events.delta(separator + word, usage()))
                separator = ""
            await exchange.send(events.end_of_chunk(usage()))
        if options.include_usage:
            await exchange.send(events.usage(usage_of(prompt_tokens, completion_tokens)))
        self.figures.generation_tokens += completion_tokens
        await exchange.send(DONE)
        await exchange.finish()
