"""Have engines transcribe one piece of audio.

Pieces are requested as `json` whatever format the client wants: it is the cheapest format, loses
the fewest words, and every model supports it. Times are derived from the speech
(`formats.alignment`).
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from vllm_router.audio.wav import pcm16_header
from vllm_router.errors import (
    EngineFailed,
    EnginesBusy,
    EnginesDied,
    EngineTooSlow,
    NoEngineReady,
    no_word_times,
)
from vllm_router.formats.transcript import Transcript, read_transcript
from vllm_router.requests.attempts import AttemptRunner
from vllm_router.requests.pieces import LongAudio, SpooledPiece
from vllm_router.requests.relay import Relay, UploadBody, understood
from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.work import OutcomeKind, Ticket, WorkTrace, windows_of
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.model_capabilities import ModelCapabilities
from vllm_router.upstream.refusal import RefusalKind, read_refusal

#: Delays before a piece is retried after the fleet could not take it. Together they exceed the time
#: in which an engine restarts and is noticed: a minute's outage must not end an hour of work.
PATIENCE_S: Final = (1.0, 3.0, 10.0, 20.0)

#: Engines that must refuse a piece before the whole audio fails. A mistake would cost an hour of
#: work, not one upload.
VOTES: Final = 3

#: Fields that concern the whole upload or its response; each piece gets its own.
_OURS: Final = frozenset(
    {
        "file",
        "model",
        "language",
        "response_format",
        "stream",
        "stream_include_usage",
        "stream_continuous_usage_stats",
        "timestamp_granularities",
        "timestamp_granularities[]",
        "channels",
        "chunking_strategy",
        "known_speaker_names",
        "known_speaker_names[]",
        "known_speaker_references",
        "known_speaker_references[]",
    }
)


class PieceFailed(EngineFailed):
    """Engines agree that they cannot transcribe a piece, but do not say why."""


class PieceCaller:
    """Has the fleet transcribe pieces.

    Args:
        dispatcher: Runs calls on engines.
        relay: Calls engines.
        capabilities: Capabilities of the models' engines.
    """

    def __init__(
        self, dispatcher: AttemptRunner, relay: Relay, capabilities: ModelCapabilities
    ) -> None:
        self._dispatcher = dispatcher
        self._relay = relay
        self._capabilities = capabilities

    def takes_language(self, audio: LongAudio) -> bool:
        """Return whether engines accept a language, as far as known."""
        return self._capabilities.of(audio.request.model).language is not False

    async def ask(
        self,
        audio: LongAudio,
        piece: SpooledPiece,
        trace: WorkTrace | None,
        *,
        language: str | None = None,
        temperature: float | None = None,
        tells_language: bool = True,
        asks_words: bool = True,
    ) -> Transcript:
        """Return an engine's transcript of a piece.

        Args:
            audio: The audio that the piece belongs to.
            piece: The piece.
            trace: Traces the work; None: no trace.
            language: Replaces the audio's language; None: the client's language, if given.
            temperature: Replaces the client's.
            tells_language: Whether to send the language, if there is one.
            asks_words: Whether to request word timestamps, if the client wants them.

        Raises:
            EngineRefused: The engine refused for a reason that the client should see.
            UnsupportedValue: It provides no word timestamps.
            PieceFailed: Engines answered 500.
            RouterError: The piece could not be transcribed.
        """
        boundary = b"piece-" + secrets.token_hex(12).encode()
        headers = [
            *audio.headers,
            (b"content-type", b"multipart/form-data; boundary=" + boundary),
        ]
        path = b"/v1/audio/" + audio.request.task.value.encode()
        told = language or audio.language
        if not tells_language or not self.takes_language(audio):
            told = None
        wants_words = audio.wants_words and asks_words
        body = _form(audio, piece, boundary, told, temperature, wants_words=wants_words)
        request_id = f"{audio.record.request_id}/{piece.index}"
        heard: list[Transcript] = []

        async def send(engine: Engine) -> Answer:
            audio.record.given_to(engine.engine_id)
            sent = headers if trace is None else trace.attempt(engine.engine_id, headers)

            def read(answer: bytes) -> None:
                heard.append(read_transcript(answer, round(piece.length_s, 3)))

            call = self._relay.send(engine, path, request_id, sent, body, piece.length_s)
            return await understood(call, read)

        for patience_s in (*PATIENCE_S, None):
            ticket = Ticket(
                request_id=request_id,
                model=audio.request.model,
                audio_s=piece.length_s,
                windows=windows_of(piece.length_s),
                urgency=audio.urgency,
                enqueued_at=audio.enqueued_at,
                votes=VOTES,
                is_admitted=True,
                trace=trace,
                deaths=piece.deaths,
                # Pieces keep their order: later pieces must not delay a stream's first words.
                ahead=piece.index,
            )
            try:
                attempt = await self._dispatcher.attempt(ticket, send)
            except EnginesDied:
                raise
            except (EngineFailed, EnginesBusy, EngineTooSlow, NoEngineReady):
                if patience_s is None:
                    raise
                await asyncio.sleep(patience_s)
                continue
            audio.record.queue_s = max(audio.record.queue_s, attempt.waited_s)
            audio.record.windows += ticket.windows
            answer = attempt.answer
            if answer.status == 200:
                attempt.close(OutcomeKind.OK)
                return heard[-1]
            said = await attempt.refusal()
            reason = read_refusal(
                answer.status,
                answer.body or said.body(),
                asked_format="verbose_json" if wants_words else None,
                language=told,
            ).kind
            if reason is RefusalKind.NO_WORDS:
                return Transcript("")
            if reason is RefusalKind.FORMAT:
                # The format was the reason only if the piece passes with another one.
                await self.ask(
                    audio,
                    piece,
                    trace,
                    language=language,
                    temperature=temperature,
                    tells_language=tells_language,
                    asks_words=False,
                )
                for engine_id in attempt.refused_by:
                    self._capabilities.refused_format(ticket, engine_id)
                raise no_word_times()
            if reason is RefusalKind.LANGUAGE:
                words = await self.ask(
                    audio,
                    piece,
                    trace,
                    temperature=temperature,
                    tells_language=False,
                    asks_words=asks_words,
                )
                # The field was indeed the reason.
                for engine_id in attempt.refused_by:
                    self._capabilities.refused_language(ticket, engine_id)
                return words
            if answer.status >= 500:
                # For a whole upload the client sees this answer; for a piece it says too little.
                raise PieceFailed(f"The engines answered {answer.status} to this segment.")
            raise said
        raise AssertionError("the last round raises")


def _form(
    audio: LongAudio,
    piece: SpooledPiece,
    boundary: bytes,
    language: str | None,
    temperature: float | None,
    *,
    wants_words: bool,
) -> UploadBody:
    """Return the form for one piece: the client's fields, with the router's replacing some."""
    fields = [
        (part.name.encode(), part.value)
        for part in audio.request.form.parts
        if part.value is not None
        and part.name not in _OURS
        and not (part.name == "temperature" and temperature is not None)
    ]
    if audio.request.asked_model is not None:
        fields.append((b"model", audio.request.model.encode()))
    if wants_words:
        fields.append((b"response_format", b"verbose_json"))
        fields.append((b"timestamp_granularities[]", b"word"))
    else:
        fields.append((b"response_format", b"json"))
    if language is not None:
        fields.append((b"language", language.encode()))
    if temperature is not None:
        fields.append((b"temperature", b"%g" % temperature))
    head = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value)
        for name, value in fields
    ]
    head.append(
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="piece-%d.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" % (boundary, piece.index)
    )
    head.append(pcm16_header(piece.size_bytes))
    end = b"\r\n--%b--\r\n" % boundary
    samples = (piece.first_byte, piece.first_byte + piece.size_bytes)
    return UploadBody(piece.upload, [b"".join(head), samples, end])
