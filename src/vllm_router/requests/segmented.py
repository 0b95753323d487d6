"""An upload that is transcribed in pieces by all engines, and its response: whole or streamed."""

from __future__ import annotations

import os
from dataclasses import replace

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.formats import (
    FORMATS,
)
from vllm_router.formats.json_text import JsonValue
from vllm_router.formats.transcript import (
    Transcript,
    duration_usage,
    joined,
)
from vllm_router.observability.request_record import RequestRecord
from vllm_router.requests.event_stream import EventStream
from vllm_router.requests.headers import engine_headers
from vllm_router.requests.options import ResponseOptions, most_channels
from vllm_router.requests.pieces import LongAudio, PieceResult
from vllm_router.requests.services import Services, require_words
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.requests.turns import TurnEvents, Turns
from vllm_router.scheduling.work import Ticket, windows_of
from vllm_router.server.exchange import Exchange
from vllm_router.spool.upload import Upload


def long_audio(
    services: Services,
    exchange: Exchange,
    request: TranscriptionRequest,
    options: ResponseOptions,
    record: RequestRecord,
    file: int,
) -> LongAudio:
    """Return an upload as an audio to be transcribed in pieces.

    Args:
        services: Shared services.
        exchange: The client's request.
        request: What was read from it.
        options: The requested response.
        record: The request's record.
        file: Descriptor of the file that holds the upload; owned by the caller.
    """
    headers = engine_headers(exchange, services.relay.engine_key)
    return LongAudio(
        request=request,
        record=record,
        headers=[header for header in headers if header[0] != b"content-type"],
        language=options.language,
        file=file,
        enqueued_at=services.dispatcher.now(),
        urgency=services.urgency(request, options),
        skip_silence=services.rules.skip_silence,
        partial_ok=services.rules.partial_ok,
        verifies=services.rules.verifies,
        wants_words=options.wants_words,
        is_stream=options.is_stream,
        channels=options.channels,
    )


def answer_headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """Return the headers that describe how a response was made."""
    headers = [(b"x-engine-id", ",".join(record.engines[:16]).encode())]
    if record.is_verified and record.speech_s:
        headers.append((b"x-speech-coverage", b"%.3f" % (record.covered_s / record.speech_s)))
    return headers + warning_headers(record)


def warning_headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """Return the header that describes damage to the file, if there is any."""
    warning = record.warning
    return [] if warning is None else [(b"x-audio-warning", warning.encode("ascii", "replace"))]


class SegmentedAnswer:
    """The response to one upload that is transcribed in pieces by all engines."""

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        request: TranscriptionRequest,
        options: ResponseOptions,
        record: RequestRecord,
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._request = request
        self._options = options
        self._record = record
        self._parts: list[Transcript] = []
        self._speech: list[SpeechSpan] = []
        self._turns = Turns()
        self._missing: list[PieceResult] = []
        self._has_words = False

    async def run(self, upload: Upload) -> None:
        """Respond to the upload."""
        services, request, record = self._services, self._request, self._record
        now = services.dispatcher.now()
        urgency = services.urgency(request, self._options)
        channels = most_channels(request, self._options.channels, upload)
        whole = Ticket(
            request_id=record.request_id,
            model=request.model,
            audio_s=request.hint.seconds * channels,
            windows=windows_of(request.hint.seconds) * channels,
            urgency=urgency,
            enqueued_at=now,
        )
        await services.dispatcher.slots.admit(whole)
        file = upload.file()
        try:
            audio = long_audio(services, self._exchange, request, self._options, record, file)
            if self._options.is_stream:
                await self._streamed(audio)
            else:
                await self._whole(audio)
        finally:
            os.close(file)
        if record.speech_s and not self._has_words and not self._missing:
            services.counts.note_empty(request.model, record)

    async def _whole(self, audio: LongAudio) -> None:
        length_s = await self._services.fanout.hear(audio, self._keep)
        self._record.audio_s = length_s
        shown_s = round(length_s, 3)
        has_turns = len(self._turns) > 0
        transcript = self._turns.joined(shown_s) if has_turns else joined(self._parts, shown_s)
        transcript = replace(transcript, language=audio.language or audio.votes.language)
        if self._missing:
            gaps: list[JsonValue] = [
                {"start": h.start_s, "end": h.end_s}
                | ({} if h.channel is None else {"channel": h.channel})
                for h in self._missing
            ]
            transcript = replace(transcript, extra={**transcript.extra, "missing": gaps})
        assert self._options.format is not None
        speech = self._turns.speech if has_turns else self._speech
        body = self._services.written(transcript, self._request, self._options, speech)
        content_type = FORMATS[self._options.format].content_type.encode()
        self._exchange.respond(200, [(b"content-type", content_type), *self._headers()], body)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = answer_headers(self._record)
        if self._missing:
            gaps = ",".join(f"{h.start_s:.3f}-{h.end_s:.3f}" for h in self._missing[:100])
            headers.append((b"x-missing-seconds", gaps.encode()))
        return headers

    async def _keep(self, heard: PieceResult) -> None:
        part = self._took(heard)
        if part is not None and heard.channel is not None:
            self._turns.add(part, heard.channel, heard.speech)
        elif part is not None:
            self._parts.append(part)
            self._speech += heard.speech

    def _took(self, heard: PieceResult) -> Transcript | None:
        if heard.missing is not None:
            self._missing.append(heard)
        if heard.transcript is None:
            return None
        self._has_words = self._has_words or bool(heard.transcript.text.strip())
        require_words(self._options, heard.transcript)
        return heard.transcript

    async def _streamed(self, audio: LongAudio) -> None:
        rendering = self._services.rendering(self._request, self._options, self._record)
        turns = TurnEvents(rendering)

        with EventStream(self._exchange, self._record) as stream:
            for name, value in warning_headers(self._record):
                stream.set_header(name, value)

            async def pass_piece_on(heard: PieceResult) -> None:
                part = self._took(heard)
                if heard.channel is not None:
                    await stream.send(turns.add(part, heard))
                elif part is not None:
                    await stream.send(rendering.add(part, heard.speech))

            length_s = await self._services.fanout.hear(audio, pass_piece_on)
            self._record.audio_s = length_s
            missing = [(h.start_s, h.end_s) for h in self._missing]
            await stream.send(turns.rest())
            await stream.send(
                rendering.end(duration_usage(length_s), missing, self._record.warning)
            )
            stream.end()
