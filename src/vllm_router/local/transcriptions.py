"""The audio routes: decode an upload, transcribe it, and answer as vLLM does."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from vllm_router.local.errors import ApiError
from vllm_router.local.form import TranscriptionForm
from vllm_router.local.metrics import EngineMetrics
from vllm_router.local.responses import (
    DONE,
    Chunk,
    StreamEvents,
    error_event,
    to_json,
    to_verbose_json,
    usage_of,
)
from vllm_router.local.transcriber import CpuTranscriber, Recording
from vllm_router.local.whisper import Options

log = logging.getLogger(__name__)

# The prompt's special tokens, and the encoder positions per second that vLLM counts.
_PROMPT_TOKENS = 4
_TOKENS_PER_S = 50
# What nginx logs for a client that closed its connection; nobody receives it.
_CLIENT_CLOSED_REQUEST = 499
# A word with the space before it, as tokens carry it.
_WORD = re.compile(r"\s*\S+")


def audio_routes(transcriber: CpuTranscriber, model: str, metrics: EngineMetrics) -> APIRouter:
    """Return the routes under /v1/audio.

    Args:
        transcriber: Decodes and transcribes.
        model: The name that clients may give as `model`.
        metrics: Counts the requests.
    """
    router = APIRouter(prefix="/v1/audio")
    handler = _Handler(transcriber, model, metrics)

    @router.post("/transcriptions")
    async def transcribe(request: Request, form: Annotated[TranscriptionForm, Form()]) -> Response:
        return await _while_connected(request, handler.respond(request, form, "transcribe"))

    @router.post("/translations")
    async def translate(request: Request, form: Annotated[TranscriptionForm, Form()]) -> Response:
        return await _while_connected(request, handler.respond(request, form, "translate"))

    return router


async def _while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Return the result of `work`, cancelled if the client disconnects first."""
    task = asyncio.create_task(work)
    # The body has been read: the next event can only be the disconnect.
    disconnect = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=_CLIENT_CLOSED_REQUEST)
    finally:
        disconnect.cancel()
        task.cancel()


class _Handler:
    def __init__(self, transcriber: CpuTranscriber, model: str, metrics: EngineMetrics) -> None:
        self._transcriber = transcriber
        self._model = model
        self._metrics = metrics

    async def respond(self, request: Request, form: TranscriptionForm, task: str) -> Response:
        started_at = time.monotonic()
        form.check(self._model)
        options = Options(
            task=task,
            language=form.language or None,
            timestamps=form.response_format == "verbose_json",
            prompt=form.prompt,
            temperature=form.temperature,
        )
        with self._metrics.in_flight():
            recording = await self._transcriber.open(await form.file.read(), options)
            if not form.stream:
                chunks = await recording.transcribe()
                token_count = sum(chunk.token_count for chunk in chunks)
                self._metrics.record(time.monotonic() - started_at, token_count)
                return JSONResponse(_body(form, task, recording, chunks))
        request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
        events = StreamEvents(
            f"{task}-{request_id}", task, form.model or self._model, int(time.time())
        )
        return StreamingResponse(
            self._stream(recording, form, events, started_at), media_type="text/event-stream"
        )

    async def _stream(
        self,
        recording: Recording,
        form: TranscriptionForm,
        events: StreamEvents,
        started_at: float,
    ) -> AsyncIterator[bytes]:
        prompt_tokens = _PROMPT_TOKENS + int(recording.duration_s * _TOKENS_PER_S)
        completion_tokens = 0

        def usage() -> dict[str, int] | None:
            is_wanted = form.stream_include_usage and form.stream_continuous_usage_stats
            return usage_of(prompt_tokens, completion_tokens) if is_wanted else None

        try:
            with self._metrics.in_flight():
                separator = ""
                async for chunk in recording.stream():
                    for word in _WORD.findall(chunk.text):
                        completion_tokens += 1
                        yield events.delta(separator + word, usage())
                        separator = ""
                    yield events.end_of_chunk(usage())
                    separator = " "
                if form.stream_include_usage:
                    yield events.usage(usage_of(prompt_tokens, completion_tokens))
            self._metrics.record(time.monotonic() - started_at, completion_tokens)
        except (RuntimeError, ValueError):
            # CTranslate2's errors. The status has been sent, so that the stream reports them.
            log.exception("a streamed response failed")
            error = ApiError(500, "Internal server error", "InternalServerError")
            yield error_event(error.body())
        yield DONE


def _body(
    form: TranscriptionForm, task: str, recording: Recording, chunks: Sequence[Chunk]
) -> dict[str, object]:
    if form.response_format == "verbose_json":
        return to_verbose_json(chunks, recording.language, recording.duration_s, form.temperature)
    return to_json(task, " ".join(chunk.text for chunk in chunks), recording.duration_s)
